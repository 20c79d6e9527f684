"""Special tokens in text."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.chat.special import SpecialTokens, has_marks, special_tokens

TOKENS = ("<s>", "</s>", "<|end|>", "<|end", "<|endoftext|>", "▁x▁", "a b")
texts = st.lists(
    st.sampled_from([*TOKENS, "<", "|", "end", "<|", "text|>", "▁", "x", " ", "é", "\n"])
).map("".join)


def naively(tokens: tuple[str, ...], text: str) -> tuple[str, ...]:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return tuple(re.split(f"({'|'.join(map(re.escape, longest_first))})", text))


@given(texts)
@example("<|endoftext|>")
@example("<|end|><|end<|endof")
def test_a_text_is_split_at_its_special_tokens_the_longest_first(text: str) -> None:
    parts = SpecialTokens(TOKENS).split(text)
    assert parts == naively(TOKENS, text)
    assert "".join(parts) == text


@given(st.lists(st.text("ab.*", max_size=5), min_size=1).map(tuple), st.text("ab.*"))
def test_any_texts_can_be_special(tokens: tuple[str, ...], text: str) -> None:
    if any(tokens):
        assert SpecialTokens(tokens).split(text) == naively(tokens, text)


def test_without_special_tokens_a_text_is_one_part() -> None:
    for tokens in ((), ("",)):
        special = SpecialTokens(tokens)
        assert special.split("<s>") == special.split_marked(special.mark("<s>")) == ("<s>",)


def test_many_tokens_that_begin_each_other_can_be_told_apart() -> None:
    tokens = tuple("a" * length for length in range(1, 1100))
    assert SpecialTokens(tokens).split("aaab") == ("", "aaa", "b")


@pytest.mark.parametrize(
    "text", ["<|reserved_special_token_1" * 4000, "<" * 100_000, "<|" * 50_000, "x < 3\n" * 16_000]
)
def test_the_time_for_a_text_does_not_grow_with_the_number_of_tokens(text: str) -> None:
    special = SpecialTokens([f"<|reserved_special_token_{i}|>" for i in range(1000)])
    started = time.thread_time()
    assert special.split(text) == (text,)
    assert time.thread_time() - started < 0.1  # about 1 ms; one by one it would be seconds


def test_only_what_is_marked_throughout_is_special() -> None:
    special = SpecialTokens(TOKENS)
    parts = special.split_marked("<s>" + special.mark("<s>") + special.mark("<") + "s>")
    assert parts == ("<s>", "<s>", "<s>")
    assert special.split_marked(special.mark("<|en") + special.mark("d|>")) == ("", "<|end|>", "")
    assert special.split_marked(special.mark("a b")) == ("", "a b", "")
    assert special.split_marked("▁x▁" + special.mark("▁x▁")) == ("▁x▁", "▁x▁", "")


@given(texts)
def test_marks_come_off_and_keep_the_length(text: str) -> None:
    special = SpecialTokens(TOKENS)
    marked = special.mark(text)
    assert len(marked) == len(text)
    assert special.plain(marked) == special.plain(text) == text
    assert has_marks(marked) == any(c in "".join(TOKENS).replace(" ", "") for c in text)
    assert special.like(text, marked) == marked
    assert special.like(text, text) == text


def test_what_looks_like_a_mark_is_none() -> None:
    assert SpecialTokens(TOKENS).mark("\ud800\ud801") == "\ufffd\ufffd"


def test_what_cannot_be_marked_is_never_the_templates() -> None:
    tokens = (" ", *map(chr, range(0x4E00, 0x4E00 + 3000)))
    special = SpecialTokens(tokens)
    assert special.split_marked(special.mark("\u4e00 \u5700"))[1::2] == ("\u4e00",)
    assert special.split("\u4e00 \u5700")[1::2] == ("\u4e00", " ", "\u5700")


def test_a_vocabulary_is_prepared_once() -> None:
    assert special_tokens(TOKENS) is special_tokens(TOKENS)
