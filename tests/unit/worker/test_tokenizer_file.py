"""Tests of tokenizer.json files in place of the tokenizer made from a model file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

import worker.tokenizer.file
from shared.errors import ModelFileError
from shared.model.description import Family, ModelFile, TokenizerKind
from shared.model.gguf import TokenType
from tests.model_files import model_file, widened
from tests.tokenizers_of_families import RECIPES, lines, trained
from worker.tokenizer.file import TokenizerFile
from worker.tokenizer.tokenizer import Tokenizer as OurTokenizer
from worker.tokenizer.tokenizer import build_tokenizer
from worker.tokenizer.vocabulary import Vocabulary

Definition = dict[str, Any]


def library(text: bytes) -> list[int]:
    raise AssertionError


def definition(name: str) -> Definition:
    loaded: Definition = json.loads(trained(name).reference.to_str())
    return loaded


def write(folder: Path, content: Definition) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def load(path: Path, file: ModelFile) -> tuple[OurTokenizer, Vocabulary]:
    override = TokenizerFile.read(path, file)
    vocabulary = Vocabulary.from_model(file, override)
    return build_tokenizer(file, vocabulary, library, override), vocabulary


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_it_replaces_the_tokenizer_of_the_file(tmp_path: Path, name: str) -> None:
    model = trained(name)
    tokenizer, vocabulary = load(write(tmp_path, definition(name)), model.file)
    plain = Vocabulary.from_model(model.file)
    assert vocabulary.special == plain.special
    assert vocabulary.token_bytes == plain.token_bytes
    assert vocabulary.eog == plain.eog
    expected = model.reference.encode_batch_fast(lines()[:500], add_special_tokens=False)
    for line, encoding in zip(lines(), expected, strict=False):
        assert tokenizer.encode((line,)) == encoding.ids
    text, token = next(iter(vocabulary.special.items()))
    assert tokenizer.encode(("a", text, "b"))[1] == token
    assert token not in tokenizer.encode((f"a{text}b",))


def test_it_restores_what_the_model_file_has_lost(tmp_path: Path) -> None:
    file = trained("gpt-neox").file
    spoilt = replace(
        file, tokens=[raw.decode("utf-8", "replace").lstrip(" ").encode() for raw in file.tokens]
    )
    _, vocabulary = load(write(tmp_path, definition("gpt-neox")), spoilt)
    assert vocabulary.raw == file.tokens


def test_what_it_adds_to_a_text_is_switched_off(tmp_path: Path) -> None:
    reference = Tokenizer.from_str(trained("gpt2").reference.to_str())
    plain = reference.encode("some text").ids
    reference.enable_truncation(1)
    reference.enable_padding(length=64)
    end = ("<|endoftext|>", reference.token_to_id("<|endoftext|>"))
    reference.post_processor = processors.TemplateProcessing("$A <|endoftext|>", None, [end])
    path = tmp_path / "tokenizer.json"
    reference.save(str(path))
    tokenizer, _ = load(path, trained("gpt2").file)
    assert tokenizer.encode(("some text",)) == plain


def test_added_tokens_that_are_not_special_are_found_in_plain_text(tmp_path: Path) -> None:
    file = trained("gpt2").file
    file = widened(file, [b""] * 3)
    content = definition("gpt2")
    last = file.n_vocab - 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] += [
        {"id": last - 2, "content": "<|special|>", "special": True, **flags},
        {"id": last, "content": "|||IP|||", "special": False, **flags},
    ]
    tokenizer, vocabulary = load(write(tmp_path, content), file)
    assert "<|special|>" in vocabulary.special
    assert "|||IP|||" not in vocabulary.special
    assert tokenizer.encode(("|||IP|||",)) == [last]
    assert vocabulary.token_bytes[last] == b"|||IP|||"
    assert vocabulary.token_bytes[last - 2] == b""
    assert last - 2 not in tokenizer.encode(("<|special|>", "", "<|special|>"))


def test_a_special_token_of_the_model_file_is_special_whatever_it_says(tmp_path: Path) -> None:
    content = definition("smollm")
    for token in content["added_tokens"]:
        token["special"] = False
    tokenizer, vocabulary = load(write(tmp_path, content), trained("smollm").file)
    token = vocabulary.special["<|im_end|>"]
    assert token not in tokenizer.encode(("<|im_end|>",))


def test_merges_cannot_make_a_special_token_of_plain_text(tmp_path: Path) -> None:
    tokens = [b"a", b"b", b"ab", b"abb"]
    vocab = {raw.decode(): token for token, raw in enumerate(tokens)}
    content: Definition = {
        "added_tokens": [
            {"id": 3, "content": "abb", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        ],
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "ab b"], "ignore_merges": True},
    }  # fmt: skip
    tokenizer, _ = load(write(tmp_path, content), model_file(tokens))
    assert tokenizer.encode(("abb",)) == [2, 1]
    assert tokenizer.encode(("", "abb", "ab")) == [3, 2]


def sentencepiece() -> tuple[Tokenizer, ModelFile]:
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += ["▁", "a", "b", "▁a", "ab", "▁ab"]
    types = [2, 3, 3, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * 6]
    pipeline = Tokenizer(
        models.BPE(
            vocab={text: token for token, text in enumerate(texts)},
            merges=[("▁", "a"), ("a", "b"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    pipeline.add_special_tokens([AddedToken(text, special=True) for text in texts[:3]])
    file = model_file(
        [text.encode() for text in texts],
        family=Family.LLAMA,
        token_types=types,
        tokenizer=TokenizerKind.SENTENCEPIECE,
        bos=1,
        eos=2,
    )
    return pipeline, file


PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
FIRST = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)


@pytest.mark.parametrize(("normalizer", "pre_tokenizer"), [(PREPEND, None), (None, FIRST)])
def test_the_tokenizer_of_a_sentencepiece_model(
    tmp_path: Path,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
) -> None:
    pipeline, file = sentencepiece()
    if normalizer is not None:
        pipeline.normalizer = normalizer
    if pre_tokenizer is not None:
        pipeline.pre_tokenizer = pre_tokenizer
    path = tmp_path / "tokenizer.json"
    pipeline.save(str(path))
    tokenizer, vocabulary = load(path, file)
    assert vocabulary.add_bos
    for prompt in (("ab a\n\0",), ("a", "</s>", "b a"), ("", "<s>", "a b", "</s>", " a")):
        expected = pipeline.encode("".join(prompt), add_special_tokens=False).ids
        assert tokenizer.encode(prompt) == [1, *expected[expected[0] == 1 :]]
    assert 2 not in tokenizer.encode(("</s>",))


def without(key: str) -> Callable[[Definition], object]:
    return lambda content: content["model"].pop(key)


REFUSED: list[tuple[Callable[[Definition], object], str]] = [
    (lambda content: content.pop("model"), "describes no tokenizer"),
    (without("vocab"), "have not the usual form"),
    (without("merges"), "have not the usual form"),
    (lambda content: content["model"].update(type="WordPiece"), "is of the type 'WordPiece'"),
    (lambda content: content["model"].update(vocab=[["a", 0.0]]), "have not the usual form"),
    (lambda content: content["model"].update(vocab={}), "have not the usual form"),
    (lambda content: content["model"]["vocab"].update(a=True), "have not the usual form"),
    (lambda content: content["model"]["merges"].append("a b c"), "have not the usual form"),
    (lambda content: content["model"]["merges"].append(["a", 1]), "have not the usual form"),
    (lambda content: content["model"]["merges"].append("a nonsense"), "cannot use it"),
    (lambda content: content["added_tokens"].append({"id": 1}), "have not the usual form"),
    (lambda content: content.update(pre_tokenizer={"type": "New"}), "cannot use it"),
    (lambda content: content["model"]["vocab"].update(long=2505), "'long' has the id 2505"),
    (lambda content: content["model"]["vocab"].update(less=-1), "belongs to another model"),
    (lambda content: content["added_tokens"][0].update(id=9999), "has the id 9999"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_is_no_tokenizer_of_the_model_is_refused(
    tmp_path: Path, spoil: Callable[[Definition], object], message: str
) -> None:
    content = definition("starcoder")
    spoil(content)
    path = write(tmp_path, content)
    with pytest.raises(ModelFileError) as caught:
        TokenizerFile.read(path, trained("starcoder").file)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": []}'])
def test_what_is_no_tokenizer_at_all_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text)
    with pytest.raises(ModelFileError, match=r"is needed"):
        TokenizerFile.read(path, trained("gpt2").file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "tokenizer.json", tmp_path):
        with pytest.raises(ModelFileError, match="cannot be read"):
            TokenizerFile.read(path, trained("gpt2").file)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.tokenizer.file, "_MAX_BYTES", 10)
    with pytest.raises(ModelFileError, match="more than 10"):
        TokenizerFile.read(write(tmp_path, definition("gpt2")), trained("gpt2").file)


@pytest.mark.parametrize(("other", "name"), [("gpt2", "starcoder"), ("falcon", "smollm")])
def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path, other: str, name: str) -> None:
    file = trained(name).file
    wider = widened(file, [b""] * 99)
    path = write(tmp_path, definition(other))
    with pytest.raises(ModelFileError, match="belongs to another model"):
        TokenizerFile.read(path, wider)
