"""Reads a SentencePiece ``tokenizer.model``, a protocol buffer of ``sentencepiece_model.proto``.

Only a few of its fields are wanted, which does not warrant the library behind it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from shared.errors import UsageError
from shared.model.gguf import TokenType
from worker.convert.added_tokens import in_folder
from worker.convert.source import ModelFolder
from worker.convert.vocabulary import Vocabulary

MODEL_FILE = "tokenizer.model"

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BPE = 3, 24, 2
_CHARACTERS, _PREFIX, _DROPS_SPACES, _ESCAPES = 2, 3, 4, 5
_FIXED_KINDS = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)

_Value: TypeAlias = int | bytes
_Piece: TypeAlias = tuple[bytes, float, TokenType]


@dataclass
class _Model:
    """What is wanted of a file; of the fields that it leaves out, the defaults."""

    pieces: list[_Piece] = field(default_factory=list)
    trainer: dict[int, _Value] = field(default_factory=dict)
    normalizer: dict[int, _Value] = field(default_factory=dict)


def read_sentencepiece(folder: ModelFolder) -> tuple[Vocabulary, tuple[str, ...]]:
    """Read ``tokenizer.model``, and the tokens that were added to it later.

    Returns:
        The vocabulary, and what is to be noted about its use.

    Raises:
        UsageError: it is missing, damaged, or no BPE model that the engine can tokenize with.
    """
    path = folder.path / MODEL_FILE
    try:
        model = _parse(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror or error}; a SentencePiece model needs it"
        ) from error
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise UsageError(f"{path}: is damaged, or no SentencePiece model") from error
    pieces = model.pieces
    if model.trainer.get(_MODEL_TYPE) != _BPE or not pieces:
        raise UsageError(f"{path}: is no BPE model; the engine cannot tokenize with others")
    _check_spaces(folder, model)
    _add_tokens(folder, pieces)
    vocabulary = Vocabulary(
        tokens=tuple(text for text, _, _ in pieces),
        types=tuple(kind for _, _, kind in pieces),
        merges=(),
        scores=tuple(score for _, score, _ in pieces),
        pre=None,
        normalizer=None,
        origin=str(path),
    )
    return vocabulary, _notes(model)


def _check_spaces(folder: ModelFolder, model: _Model) -> None:
    """Check that spaces are treated in the one way that the engine knows.

    Raises:
        UsageError: they are not.
    """
    path, settings = folder.path / MODEL_FILE, folder.optional("tokenizer_config.json")
    for origin, is_other, what in (
        (path, not model.normalizer.get(_PREFIX, 1), "add_dummy_prefix is false"),
        (settings.path, not settings.flag("add_prefix_space", True), "add_prefix_space is false"),
        (path, not model.normalizer.get(_ESCAPES, 1), "escape_whitespaces is false"),
        (path, bool(model.trainer.get(_SUFFIX, 0)), "treat_whitespace_as_suffix is true"),
    ):
        if is_other:
            raise UsageError(
                f"{origin}: {what}; the engine always puts a space before a text, and spells it "
                "as a part of the word that follows"
            )


def _notes(model: _Model) -> tuple[str, ...]:
    notes = []
    if model.normalizer.get(_CHARACTERS):
        notes.append("its tokenizer replaces some characters by others, which the engine does not")
    if model.normalizer.get(_DROPS_SPACES, 1):
        notes.append("its tokenizer drops repeated spaces, which the engine does not")
    return tuple(notes)


def _add_tokens(folder: ModelFolder, pieces: list[_Piece]) -> None:
    """Append the tokens that were added later; some replace a piece, or only its type."""
    path = folder.path / MODEL_FILE
    for token, text, kind in in_folder(folder):
        if not 0 <= token <= len(pieces):
            raise UsageError(f"{path}: ends before id {len(pieces)}; added tokens go on at {token}")
        if token == len(pieces):
            pieces.append((text, 0.0, kind))
        known, score, old_kind = pieces[token]
        if known != text or old_kind not in _FIXED_KINDS:
            pieces[token] = text, score, kind


def _parse(data: bytes) -> _Model:
    model = _Model()
    for number, value in _fields(data):
        if number == _PIECES:
            model.pieces.append(_piece(dict(_fields(_as_bytes(value)))))
        elif number == _TRAINER:
            model.trainer.update(_fields(_as_bytes(value)))
        elif number == _NORMALIZER:
            model.normalizer.update(_fields(_as_bytes(value)))
    return model


def _piece(fields: dict[int, _Value]) -> _Piece:
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
