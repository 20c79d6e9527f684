"""Reads a SentencePiece ``tokenizer.model``, a protocol buffer of ``sentencepiece_model.proto``.

Only three of its fields are wanted, which does not warrant the library behind it.
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

from shared.errors import UsageError
from shared.gguf import TokenType
from worker.convert.source import ModelFolder
from worker.convert.vocabulary import Vocabulary, added_tokens

MODEL_FILE = "tokenizer.model"

_PIECES, _TRAINER = 1, 2
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _BPE = 3, 2

_Value: TypeAlias = int | bytes


def read_sentencepiece(folder: ModelFolder) -> Vocabulary:
    """Read ``tokenizer.model``, and the tokens that were added to it later.

    Raises:
        UsageError: it is missing, damaged, or no BPE model.
    """
    path = folder.path / MODEL_FILE
    try:
        data = path.read_bytes()
        pieces, model_type = _parse(data)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror or error}; a SentencePiece model needs it"
        ) from error
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise UsageError(f"{path}: is damaged, or no SentencePiece model") from error
    if model_type != _BPE or not pieces:
        raise UsageError(f"{path}: is no BPE model; the engine cannot tokenize with others")
    for token, text, kind in added_tokens(folder.optional("tokenizer.json")):
        if token > len(pieces):
            raise UsageError(f"{path}: ends before id {len(pieces)}; added tokens go on at {token}")
        if token == len(pieces):
            pieces.append((text, 0.0, kind))
    return Vocabulary(
        tokens=tuple(text for text, _, _ in pieces),
        types=tuple(kind for _, _, kind in pieces),
        merges=(),
        scores=tuple(score for _, score, _ in pieces),
        pre=None,
        normalizer=None,
        origin=str(path),
    )


def _parse(data: bytes) -> tuple[list[tuple[bytes, float, TokenType]], int]:
    pieces: list[tuple[bytes, float, TokenType]] = []
    model_type = 0
    for field, value in _fields(data):
        if field == _PIECES:
            pieces.append(_piece(dict(_fields(_as_bytes(value)))))
        elif field == _TRAINER:
            model_type = int(dict(_fields(_as_bytes(value))).get(_MODEL_TYPE, 0))
    return pieces, model_type


def _piece(fields: dict[int, _Value]) -> tuple[bytes, float, TokenType]:
    (score,) = struct.unpack("<f", _as_bytes(fields.get(_SCORE, bytes(4))))
    # GGUF has taken over SentencePiece's numbers; a missing one means a normal piece.
    kind = TokenType(int(fields.get(_KIND, TokenType.NORMAL)))
    return _as_bytes(fields[_TEXT]), score, kind


def _as_bytes(value: _Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes are due")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Number and value of each field of a message; fixed-width values stay bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}[wire]
        if length > len(data) - at:
            raise ValueError("cut short")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
