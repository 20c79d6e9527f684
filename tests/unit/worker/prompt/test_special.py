"""Special tokens in text, and what clients write that must not become one."""

import inspect
import re
import sys
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.prompt.special import SpecialTokens

TOKENS = ("<s>", "</s>", "<|end|>", "<|end", "<|endoftext|>", "\u2581x\u2581", "a b")
texts = st.lists(
    st.sampled_from([*TOKENS, "<", "|", "end", "<|", "text|>", "\u2581", "x", " ", "é", "\n"])
).map("".join)


def naively(tokens: tuple[str, ...], text: str) -> tuple[str, ...]:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return tuple(re.split(f"({'|'.join(map(re.escape, longest_first))})", text))


@given(texts)
@example("<|endoftext|>")
@example("<|end|><|end<|endof")
def test_a_text_is_split_at_its_special_tokens_the_longest_first(text: str) -> None:
    parts = SpecialTokens(TOKENS, ()).split(text)
    assert parts == naively(TOKENS, text)
    assert "".join(parts) == text


@given(st.lists(st.text("ab.*", max_size=5), min_size=1).map(tuple), st.text("ab.*"))
def test_any_texts_can_be_special(tokens: tuple[str, ...], text: str) -> None:
    if any(tokens):
        assert SpecialTokens(tokens, ()).split(text) == naively(tokens, text)


def test_without_special_tokens_a_text_is_one_part() -> None:
    for tokens in ((), ("",)):
        special = SpecialTokens(tokens, tokens)
        assert special.split("<s>") == special.split_masked(special.mask("<s>")) == ("<s>",)


def test_many_tokens_that_begin_each_other_can_be_told_apart() -> None:
    tokens = tuple("a" * length for length in range(1, 300))
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        special = SpecialTokens(tokens, ())
    finally:
        sys.setrecursionlimit(before)
    assert special.split("aaab") == ("", "aaa", "b")


@pytest.mark.parametrize(
    "text", ["<|reserved_special_token_1" * 4000, "<" * 100_000, "<|" * 50_000, "x < 3\n" * 16_000]
)
def test_the_time_for_a_text_does_not_grow_with_the_number_of_tokens(text: str) -> None:
    tokens = [f"<|reserved_special_token_{i}|>" for i in range(1000)]
    special = SpecialTokens(tokens, tokens)
    started = time.thread_time()
    assert special.split(text) == (text,)
    assert special.unmask(special.mask(text)) == text
    assert time.thread_time() - started < 0.2  # about 2 ms; one by one it would be seconds


@given(texts, texts, texts)
def test_what_is_masked_is_no_token_whatever_stands_beside_it(
    before: str, text: str, after: str
) -> None:
    special = SpecialTokens(TOKENS, TOKENS)
    masked = special.mask(text)
    assert len(masked) == len(text) and special.unmask(masked) == text
    pattern = "|".join(map(re.escape, sorted(TOKENS, key=len, reverse=True)))
    for match in re.finditer(pattern, before + masked + after):
        inside = range(len(before), len(before) + len(masked))
        touched = set(inside) & set(range(*match.span()))
        assert not touched or text.isspace(), "white space is not masked"


def test_other_letters_stay_as_they_are() -> None:
    special = SpecialTokens(("<s>", "</think>"), ("<s>",))
    for text in ("Hello s", "a < b", "</think>", "<S", "\ue000\uf8ff", "日本"):
        assert special.mask(text) == text
    assert special.mask("a <s> b")[2:5] != "<s>"
    assert special.mask("<")[0] != "<", "a template might write the rest"


def test_a_letter_that_is_used_as_a_mask_becomes_a_replacement_character() -> None:
    special = SpecialTokens(("<s>",), ("<s>",))
    assert special.mask("\U00100000\U0010fffd") == "\ufffd\ufffd"


def test_json_is_masked_in_all_its_texts_but_for_the_servers_own_words() -> None:
    special = SpecialTokens(("<|user|>",), ("<|user|>",))
    masked = special.mask({"role": "user", "name": "user", "<|user|>": ["<|user|>", 1, None, 2.5]})
    assert masked["role"] == "user" and masked["name"] != "user"
    assert "<|user|>" not in masked and ["<|user|>", 1, None, 2.5] not in masked.values()
    assert special.unmask(masked["name"]) == "user"
