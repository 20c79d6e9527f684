"""Tests of the stages in which text is cut."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from shared.errors import ModelFileError
from shared.model.byte_level import LETTERS
from shared.model.description import Family
from tests.model_files import model_file
from tests.tokenizers_of_families import stages
from worker.tokenizer.pre_tokenizers import PREPARATIONS, preparation_of
from worker.tokenizer.special_tokens import FAMILY_TOKENS

FALCON = PREPARATIONS["falcon"].pre_tokenizer()
FALCONS_OWN = stages("falcon")


def cut(pre_tokenizer: pre_tokenizers.PreTokenizer, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def punctuation(first: int, last: int) -> list[str]:
    """What the package takes for it among these code points."""
    stage = pre_tokenizers.Punctuation(behavior="isolated")
    characters = (chr(code) for code in range(first, last) if not 0xD800 <= code < 0xE000)
    pieces = cut(stage, "a" + "a".join(characters) + "a")
    return [piece for piece in pieces if len(piece) == 1 and piece != "a"]


def test_falcons_punctuation_is_in_the_planes_that_are_searched() -> None:
    assert len(punctuation(0, 0x20000)) > 700
    assert punctuation(0x20000, sys.maxunicode + 1) == []


def test_falcons_punctuation_is_nothing_else_to_the_patterns() -> None:
    marks = "".join(punctuation(0, 0x20000))
    assert len(cut(stages("gpt2"), marks)) == 1


def test_falcons_stages_agree_with_its_own_beside_any_punctuation() -> None:
    for mark in punctuation(0, 0x20000):
        text = f"a{mark}1 {mark}{mark} \n{mark}'s  {mark}é12345{mark}²"
        assert cut(FALCON, text) == cut(FALCONS_OWN, text)


@given(st.text(max_size=60) | st.text("  \n\u3000aé中12½²!?_$'s·\u0301м", max_size=60))
def test_falcons_stages_agree_with_its_own_on_any_text(text: str) -> None:
    assert cut(FALCON, text) == cut(FALCONS_OWN, text)


def test_the_letters_of_bytes_that_are_numerals() -> None:
    pieces = cut(pre_tokenizers.Digits(individual_digits=True), "a" + "a".join(LETTERS) + "a")
    assert sorted(piece for piece in pieces if len(piece) == 1 and piece != "a") == sorted(
        "0123456789²³¹¼½¾"
    )


@pytest.mark.parametrize("family", list(Family))
def test_no_special_text_is_one_piece(family: Family) -> None:
    pre_tokenizer = preparation_of(model_file([], family=family)).pre_tokenizer()
    for text in (*FAMILY_TOKENS.get(family, ()), "<|endoftext|>", "<|im_start|>", "[PAD]"):
        assert len(cut(pre_tokenizer, text)) > 1


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", " 1234 x's", ["Ġ1234", "Ġx", "'s"]),
        ("smollm", " 12 x", ["Ġ", "1", "2", "Ġx"]),
        ("falcon", "a 12345!?²x", ["a", "Ġ", "123", "45", "!?", "Â", "²", "x"]),
        ("llama-bpe", " 1234 X'S", ["Ġ", "123", "4", "ĠX", "'S"]),
        ("smaug-bpe", "1234", ["123", "4"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("tekken", "camelCase12/\n", ["camel", "Case", "1", "2", "/Ċ"]),
    ],
)
def test_what_each_makes_of_a_text(pre: str, text: str, pieces: list[str]) -> None:
    assert cut(PREPARATIONS[pre].pre_tokenizer(), text) == pieces


def test_names_that_say_nothing_mean_the_familys_own() -> None:
    for pre in (None, "default"):
        file = model_file([], family=Family.FALCON, pre_tokenizer=pre)
        assert preparation_of(file) is PREPARATIONS["falcon"]


@pytest.mark.parametrize("pre", [None, "default", "smaug-bpe"])
def test_llama_3_is_known_without_a_name(pre: str | None) -> None:
    tokens = [b"<|begin_of_text|>", b"<|eot_id|>"]
    file = model_file(tokens, family=Family.LLAMA, pre_tokenizer=pre)
    assert preparation_of(file) is PREPARATIONS["llama-bpe"]
    other = model_file(tokens[:1], family=Family.LLAMA, pre_tokenizer=pre)
    assert preparation_of(other) is not PREPARATIONS["llama-bpe"]


def test_unknown_pre_tokenizer_is_refused() -> None:
    with pytest.raises(ModelFileError) as caught:
        preparation_of(model_file([], pre_tokenizer="deepseek-coder"))
    message = str(caught.value)
    assert "model.bin: the pre-tokenizer 'deepseek-coder' is not supported" in message
    for supported in ("gpt-2", "smollm", "llama-bpe", "falcon"):
        assert supported in message
