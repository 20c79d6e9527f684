"""SentencePiece vocabularies, from the bytes of a ``tokenizer.model``."""

import json
import re
import struct
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.model.description import TokenizerKind
from shared.model.gguf import TokenType
from shared.model.inspect import inspect
from tests.unit.worker.convert.folders import edit_json, folder
from worker.convert.conversion import convert
from worker.convert.sentencepiece import read_sentencepiece
from worker.convert.source import ModelFolder
from worker.convert.tensors import WeightType
from worker.convert.vocabulary import Vocabulary

SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
WORDS = [(text, -float(rank), 1) for rank, text in enumerate(["\u2581a", "in", "\u2581the", "é"])]
PIECES = [*SPECIAL, *BYTES, *WORDS]
BPE, UNIGRAM = 2, 1


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    scored = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    # The writer leaves out what is the default.
    return scored if kind == TokenType.NORMAL else scored + field(3, kind)


def model_bytes(
    model_type: int = BPE, more_trainer: bytes = b"", more_normalizer: bytes = field(4, 0)
) -> bytes:
    trainer = field(1, b"corpus.txt") + field(3, model_type) + field(4, 32000) + more_trainer
    normalizer = field(1, b"identity") + varint(9 << 3 | 1) + bytes(8) + more_normalizer
    pieces = b"".join(field(1, piece(*entry)) for entry in PIECES)
    return pieces + field(2, trainer) + field(3, normalizer)


def make_folder(parent: Path, content: bytes | None = None) -> Path:
    model = folder("llama-gqa", parent)
    (model / "tokenizer.json").unlink()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "tokenizer.model").write_bytes(model_bytes() if content is None else content)
    return model


def test_a_model_with_pieces(tmp_path: Path) -> None:
    model = make_folder(tmp_path)
    convert(model, tmp_path / "m.gguf", WeightType.F16)
    found = inspect(tmp_path / "m.gguf")
    assert found.tokenizer is TokenizerKind.SENTENCEPIECE
    assert found.n_vocab == 544
    assert list(found.tokens[: len(PIECES)]) == [text.encode() for text, _, _ in PIECES]
    types = found.token_types or []
    assert list(types[: len(PIECES)]) == [kind for _, _, kind in PIECES]
    assert set(types[len(PIECES) :]) == {TokenType.UNUSED}
    assert (found.bos, found.eos, found.add_bos) == (1, 2, True)


def test_scores(tmp_path: Path) -> None:
    vocabulary, notes = read_sentencepiece(ModelFolder(make_folder(tmp_path)))
    assert notes == ()
    assert vocabulary.scores == tuple(score for _, score, _ in PIECES)


def test_added_tokens(tmp_path: Path) -> None:
    model = make_folder(tmp_path)
    added = [
        {"id": 1, "content": "<s>", "special": True},
        {"id": 264, "content": "<tool>", "special": False},
        {"id": 263, "content": "<|im_end|>", "special": True},
    ]
    tokenizer = {"model": {"type": "BPE", "byte_fallback": True}, "added_tokens": added}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    vocabulary, _ = read_sentencepiece(ModelFolder(model))
    assert vocabulary.tokens[263:] == (b"<|im_end|>", b"<tool>")
    assert vocabulary.types[263:] == (TokenType.CONTROL, TokenType.USER_DEFINED)
    edit_json(model / "tokenizer.json", {"added_tokens": [{"id": 300, "content": "x"}]})
    with pytest.raises(UsageError, match="ends before id 263; added tokens go on at 300"):
        read_sentencepiece(ModelFolder(model))


def read(model: Path) -> Vocabulary:
    return read_sentencepiece(ModelFolder(model))[0]


def test_added_tokens_of_older_folders(tmp_path: Path) -> None:
    """Without a ``tokenizer.json``: one list has ids alone, the other tells what is special."""
    model = make_folder(tmp_path)
    plain = {"<tool>": 264, "<|im_end|>": 263, "[PAD]": 265, "<|x|>": 266}
    (model / "added_tokens.json").write_text(json.dumps(plain))
    special = {"additional_special_tokens": ["<|im_end|>"], "pad_token": {"content": "[PAD]"}}
    (model / "special_tokens_map.json").write_text(json.dumps(special))
    vocabulary = read(model)
    assert vocabulary.tokens[263:] == (b"<|im_end|>", b"<tool>", b"[PAD]", b"<|x|>")
    control, user = TokenType.CONTROL, TokenType.USER_DEFINED
    assert vocabulary.types[263:] == (control, user, control, user)

    decoder = {
        "1": {"content": "<s>", "special": True},
        "266": {"content": "<|x|>", "special": True},
        "267": {"content": "<more>", "special": False},
    }
    edit_json(model / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    vocabulary = read(model)
    assert vocabulary.tokens[266:] == (b"<|x|>", b"<more>")
    assert vocabulary.types[263:] == (control, user, control, control, user)
    convert(model, tmp_path / "m.gguf", WeightType.F16)
    assert list(inspect(tmp_path / "m.gguf").tokens[263:268]) == list(vocabulary.tokens[263:])

    (model / "added_tokens.json").unlink()
    edit_json(model / "tokenizer_config.json", {"added_tokens_decoder.266": None})
    with pytest.raises(UsageError, match="ends before id 263; added tokens go on at 267"):
        read(model)
    edit_json(model / "tokenizer_config.json", {"added_tokens_decoder.267": None})
    assert len(read(model).tokens) == 263


@pytest.mark.parametrize(
    ("added", "decoder", "message"),
    [
        ({"<a>": 263}, {"263": {"content": "<b>"}}, "token 263 is '<b>', but not in "),
        ({"<a>": "x"}, {}, "a list of added tokens is damaged"),
        ({}, {"263": {}}, "a list of added tokens is damaged"),
        ({}, [1], "a list of added tokens is damaged"),
        ({"<a>": -1}, {}, "added tokens go on at -1"),
    ],
)
def test_bad_lists_of_added_tokens(
    added: object, decoder: object, message: str, tmp_path: Path
) -> None:
    model = make_folder(tmp_path)
    (model / "added_tokens.json").write_text(json.dumps(added))
    edit_json(model / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    with pytest.raises(UsageError, match=re.escape(message)):
        read(model)


def test_added_tokens_in_the_place_of_pieces(tmp_path: Path) -> None:
    model = make_folder(tmp_path)
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "260": {"content": "in", "special": False},
        "261": {"content": "<|end|>", "special": True},
    }
    edit_json(model / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    vocabulary = read(model)
    assert vocabulary.tokens[259:262] == ("\u2581a".encode(), b"in", b"<|end|>")
    assert vocabulary.types[259:262] == (
        TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.CONTROL,
    )  # fmt: skip
    assert vocabulary.types[0] is TokenType.UNKNOWN and len(vocabulary.tokens) == 263


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (model_bytes(more_normalizer=field(3, 0)), {}, "add_dummy_prefix is false; the engine"),
        (model_bytes(more_normalizer=field(5, 0)), {}, "escape_whitespaces is false; the engine"),
        (model_bytes(more_trainer=field(24, 1)), {}, "treat_whitespace_as_suffix is true; the"),
        (None, {"add_prefix_space": False}, "tokenizer_config.json: add_prefix_space is false"),
    ],
)
def test_other_ways_with_spaces(
    content: bytes | None, settings: dict[str, bool], message: str, tmp_path: Path
) -> None:
    model = make_folder(tmp_path, content)
    edit_json(model / "tokenizer_config.json", settings)
    with pytest.raises(UsageError, match=message):
        convert(model, tmp_path / "m.gguf", WeightType.F16)
    spelt_out = model_bytes(more_normalizer=field(3, 1) + field(5, 1) + field(4, 0))
    (model / "tokenizer.model").write_bytes(spelt_out)
    edit_json(model / "tokenizer_config.json", {"add_prefix_space": True})
    assert convert(model, tmp_path / "m.gguf", WeightType.F16).notes == ()


def test_what_is_done_to_text_before_is_noted(tmp_path: Path) -> None:
    model = make_folder(tmp_path, model_bytes(more_normalizer=field(2, b"map")))
    assert convert(model, tmp_path / "m.gguf", WeightType.F16).notes == (
        "its tokenizer replaces some characters by others, which the engine does not",
        "its tokenizer drops repeated spaces, which the engine does not",
    )


def test_a_byte_level_tokenizer_comes_first(tmp_path: Path) -> None:
    model = folder("llama-gqa", tmp_path)
    (model / "tokenizer.model").write_bytes(b"of another kind")
    convert(model, tmp_path / "m.gguf", WeightType.F16)
    assert inspect(tmp_path / "m.gguf").tokenizer is TokenizerKind.BPE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_bytes(UNIGRAM), "is no BPE model; the engine cannot tokenize with others"),
        (b"", "is no BPE model"),
        (model_bytes()[:-100] + b"\xff" * 50, "is damaged, or no SentencePiece model"),
        (b"not a protocol buffer", "is damaged, or no SentencePiece model"),
        (field(1, field(1, b"text") + field(3, 99)), "is damaged, or no SentencePiece model"),
        (field(1, 7), "is damaged, or no SentencePiece model"),
        (field(1, field(3, 1)), "is damaged, or no SentencePiece model"),
    ],
)
def test_other_models(content: bytes, message: str, tmp_path: Path) -> None:
    model = make_folder(tmp_path, content)
    with pytest.raises(UsageError, match=re.escape(f"tokenizer.model: {message}")):
        convert(model, tmp_path / "m.gguf", WeightType.F16)


def test_no_tokenizer_model(tmp_path: Path) -> None:
    model = make_folder(tmp_path)
    (model / "tokenizer.model").unlink()
    with pytest.raises(UsageError, match=r"tokenizer.json: is missing"):
        convert(model, tmp_path / "m.gguf", WeightType.F16)
    (model / "tokenizer.json").write_text('{"model": {"type": "BPE", "byte_fallback": true}}')
    with pytest.raises(UsageError, match=r"tokenizer.model: cannot be read: No such file"):
        convert(model, tmp_path / "m.gguf", WeightType.F16)
