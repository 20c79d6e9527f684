"""Tokenizers made from a vocabulary alone, held against the tokenizers that it came from."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model.gguf import TokenType
from tests.model_files import widened
from tests.tokenizers_of_families import RECIPES, lines, trained
from worker.tokenizer.merges import rebuild_merges
from worker.tokenizer.tokenizer import Tokenizer, build_tokenizer
from worker.tokenizer.vocabulary import Vocabulary

FAMILIES = sorted(RECIPES)
_built: dict[str, tuple[Tokenizer, Vocabulary]] = {}
# What is at stake where pieces are cut, besides any text at all.
texts = st.text(max_size=40) | st.lists(
    st.sampled_from(
        [" ", "  ", "\n", "\t", "\u3000", "a", "B", "é", "e\u0301", "中", "🙂", "7", "12345", "²",
         "½", "м", "٣", "'s", "'", "!", "_", "$", "·", "<|im_end|>", "<|endoftext|>", "\0",
         " " * 24, "0" * 40]
    )
).map("".join)  # fmt: skip


def library(text: bytes) -> list[int]:
    raise AssertionError("byte-level BPE is none of the library's business")


def built(name: str) -> tuple[Tokenizer, Vocabulary]:
    if name not in _built:
        file = trained(name).file
        vocabulary = Vocabulary.from_model(file)
        _built[name] = build_tokenizer(file, vocabulary, library), vocabulary
    return _built[name]


def decoded(name: str, ids: list[int]) -> str:
    raw = built(name)[1].raw
    return b"".join(raw[token] for token in ids).decode()


def composed(name: str, text: str) -> str:
    return unicodedata.normalize("NFC", text) if RECIPES[name].nfc else text


def special_of(name: str) -> list[str]:
    return [*RECIPES[name].first, *RECIPES[name].last]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_merges_are_found_again(name: str) -> None:
    model, vocabulary = trained(name), built(name)[1]
    outside = {*vocabulary.special.values(), *vocabulary.added.values()}
    assert rebuild_merges(model.file.tokens, outside) == model.merges


@pytest.mark.parametrize("name", FAMILIES)
def test_every_line_gets_the_ids_of_the_reference(name: str) -> None:
    tokenizer, reference = built(name)[0], trained(name).reference
    expected = reference.encode_batch_fast(lines(), add_special_tokens=False)
    different = [
        line
        for line, encoding in zip(lines(), expected, strict=True)
        if tokenizer.encode((line,)) != encoding.ids
    ]
    assert len(lines()) == 2000
    assert different == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_long_text_gets_the_ids_of_the_reference(name: str) -> None:
    text = "\n".join(lines()) + "0123456789" * 100 + "x7"
    expected = trained(name).reference.encode(text, add_special_tokens=False)
    assert built(name)[0].encode((text,)) == expected.ids


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40)
@given(texts)
def test_any_text_gets_the_ids_of_the_reference_and_comes_back(name: str, text: str) -> None:
    ids = built(name)[0].encode((text,))
    assert ids == trained(name).reference.encode(text, add_special_tokens=False).ids
    assert decoded(name, ids) == composed(name, text)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_special_token_in_its_place_and_in_plain_text(name: str) -> None:
    check_places(name, "a" + special_of(name)[0], special_of(name)[-1], "b" + special_of(name)[-1])


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40)
@given(st.data())
def test_special_tokens_come_of_their_own_places_only(name: str, data: st.DataObject) -> None:
    special = st.sampled_from(special_of(name))
    plain = st.lists(texts | special, max_size=5).map("".join)
    check_places(name, data.draw(plain), data.draw(special), data.draw(plain))


def check_places(name: str, before: str, text: str, after: str) -> None:
    tokenizer, vocabulary = built(name)
    left, right = tokenizer.encode((before,)), tokenizer.encode((after,))
    assert not {*left, *right} & {*vocabulary.special.values()}
    token = vocabulary.special[text]
    assert tokenizer.encode((before, text, after)) == [*left, token, *right]
    assert tokenizer.encode((before, text)) == [*left, token]
    assert tokenizer.encode(("", text, after)) == [token, *right]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40)
@given(st.lists(texts, max_size=6))
def test_plain_text_is_one_piece_however_it_is_cut(name: str, parts: list[str]) -> None:
    tokenizer = built(name)[0]
    # At odd places, too, since none of these is a special token of the vocabulary.
    parts = [part for part in parts if part not in built(name)[1].special]
    assert tokenizer.encode(parts) == tokenizer.encode(("".join(parts),))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_vocabulary_tells(name: str) -> None:
    recipe, model, vocabulary = RECIPES[name], trained(name), built(name)[1]
    expected = {text: model.file.tokens.index(text.encode()) for text in special_of(name)}
    assert vocabulary.special == expected
    assert len(vocabulary.added) == (23 if recipe.space_runs else 0)
    assert all(vocabulary.token_bytes[token] == b"" for token in expected.values())
    for text, token in vocabulary.added.items():
        assert vocabulary.token_bytes[token] == text.encode()
    ends = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end|>"} & expected.keys()
    assert vocabulary.eog == {expected[text] for text in ends}
    assert (vocabulary.fim_tokens is not None) == (name == "starcoder")


@pytest.mark.parametrize("name", ["gpt-neox", "mpt", "gpt2", "starcoder"])
def test_filling_up_with_copies_of_the_last_token_changes_nothing(name: str) -> None:
    file = trained(name).file
    padded = widened(file, [file.tokens[-1]] * 100)
    vocabulary = Vocabulary.from_model(padded)
    tokenizer = build_tokenizer(padded, vocabulary, library)
    text = "\n".join(lines()[:200])
    assert vocabulary.special == built(name)[1].special
    assert vocabulary.eog == built(name)[1].eog
    assert set(vocabulary.token_bytes[-100:]) == {built(name)[1].token_bytes[-1]}
    assert tokenizer.encode((text,)) == built(name)[0].encode((text,))


def test_marked_tokens_of_a_gguf_file_are_silent() -> None:
    file = trained("smollm").file
    assert file.token_types is not None
    vocabulary = built("smollm")[1]
    for token, kind in enumerate(file.token_types):
        assert (vocabulary.token_bytes[token] == b"") == (kind == TokenType.CONTROL)
