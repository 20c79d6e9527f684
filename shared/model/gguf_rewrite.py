"""Rewrites GGUF files to what ctransformers 0.2.27 reads.

Current files spell a byte-level BPE vocabulary in GPT-2's printable letters, one for each byte;
that library wants the bytes themselves, a score for every token, and an output layer of its own
where the model shares it with the embedding. Everything else is copied as it is.
"""

import errno
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from shared.atomic_file import atomic_file
from shared.errors import UsageError
from shared.model.byte_level import bytes_of
from shared.model.gguf import (
    BYTE_FORM,
    MAGIC,
    SCORES,
    TOKEN_FORM,
    TOKEN_TYPES,
    TOKENS,
    GGUFFile,
    MetadataEntry,
    TokenType,
    ValueType,
)
from shared.model.gguf_check import ARCHITECTURES, check_gguf
from shared.model.gguf_reader import read_gguf
from shared.model.tensors import TensorInfo, align

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many have been written."""

_HEAD = "output.weight"
_BLOCK = 4 << 20
_PLAIN_TEXT = (TokenType.CONTROL, TokenType.USER_DEFINED)


def needs_rewrite(file: GGUFFile) -> bool:
    """Tell whether the library needs the file in another form."""
    if file.architecture not in ARCHITECTURES:
        return False
    if file.tokenizer_model == "gpt2" and not (file.is_byte_form and SCORES in file.metadata):
        return True
    return all(tensor.name != _HEAD for tensor in file.tensors)


def rewrite(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Write a copy of ``source`` that ctransformers 0.2.27 can load to ``target``.

    The copy is checked before it is written, and appears under its name only when it is whole.

    Raises:
        ModelFileError: ``source`` is damaged, or there is more in it that the engine cannot take.
        UsageError: ``source`` needs no rewriting, or ``target`` cannot be written.
    """
    file = read_gguf(source)
    if file.architecture in ARCHITECTURES and not needs_rewrite(file):
        raise UsageError(f"{source}: needs no rewriting")
    copy = rewritten(file)
    check_gguf(copy)
    header = _header(copy)
    padded = sum(align(tensor.n_bytes, file.alignment) for tensor in copy.tensors)
    total = len(header) + padded
    with atomic_file(target, total) as (output, _), source.open("rb") as origin:
        for done in _written(header, file, origin, output):
            if progress is not None:
                progress(done, total)


def stderr_progress(label: str) -> Progress:
    """A progress function that keeps one line on standard error up to date."""
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent == shown or (percent < 100 and not sys.stderr.isatty()):
            return
        shown = percent
        end = "\n" if percent >= 100 else ""
        start = "\r" if sys.stderr.isatty() else ""
        print(f"{start}{label}: {percent:3d} %", end=end, file=sys.stderr, flush=True)

    return show


def token_bytes(token: bytes, token_type: int) -> bytes:
    """The bytes that a token of a GPT-2 style vocabulary stands for.

    Control and user-defined tokens are plain text. So is a token with a letter outside GPT-2's
    alphabet, as some converters leave tokens that were added later without a type.
    """
    if token_type in _PLAIN_TEXT:
        return token
    try:
        raw = bytes_of(token.decode())
    except UnicodeDecodeError:
        return token
    return token if raw is None else raw


def rewritten(file: GGUFFile) -> GGUFFile:
    """Describe the copy of a file that `rewrite` would write; its offsets of metadata are none.

    Raises:
        ModelFileError: it has no vocabulary that could be rewritten.
    """
    if file.version == 1:
        file.fail(
            "the engine needs it in another form, and GGUF files of version 1 cannot be rewritten; "
            "take a newer file of this model"
        )
    values, item_types = _vocabulary(file) if file.tokenizer_model == "gpt2" else ({}, {})
    entries = dict(file.entries)
    for key, item_type in item_types.items():
        kind = ValueType.STRING if item_type is None else ValueType.ARRAY
        entries[key] = MetadataEntry(kind, item_type)
    tensors, _ = _tensors(file)
    return replace(file, metadata={**file.metadata, **values}, entries=entries, tensors=tensors)


def _vocabulary(file: GGUFFile) -> tuple[dict[str, Any], dict[str, ValueType | None]]:
    """The metadata that is new in the copy, and the type of each array's items."""
    tokens, entry = file.metadata.get(TOKENS), file.entries.get(TOKENS)
    if entry is None or entry.item_type is not ValueType.STRING or tokens is None:
        file.fail(f"it has no vocabulary ({TOKENS})")
    types = file.metadata.get(TOKEN_TYPES, [int(TokenType.NORMAL)] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        file.fail(f"{TOKEN_TYPES} does not fit its {len(tokens)} tokens")
    if not file.is_byte_form:
        tokens = [token_bytes(token, kind) for token, kind in zip(tokens, types, strict=True)]
    values: dict[str, Any] = {
        TOKENS: tokens,
        SCORES: [0.0] * len(tokens),
        TOKEN_TYPES: types,
        TOKEN_FORM: BYTE_FORM,
    }
    item_types: dict[str, ValueType | None] = {
        TOKENS: ValueType.STRING,
        SCORES: ValueType.FLOAT32,
        TOKEN_TYPES: ValueType.INT32,
        TOKEN_FORM: None,
    }
    if any(isinstance(kind, bool) or not isinstance(kind, int) for kind in set(types)):
        file.fail(f"{TOKEN_TYPES} holds something other than integers")
    return values, item_types


def _tensors(file: GGUFFile) -> tuple[tuple[TensorInfo, ...], tuple[int, ...]]:
    """The tensors of the copy, and where the data of each begins in the source."""
    copied = list(file.tensors)
    by_name = {tensor.name: tensor for tensor in copied}
    embedding = by_name.get("token_embd.weight")
    if _HEAD not in by_name and embedding is not None:
        copied.append(replace(embedding, name=_HEAD))
    origins = tuple(file.data_offset + tensor.offset for tensor in copied)
    offset = 0
    placed = []
    for tensor in copied:
        placed.append(replace(tensor, offset=offset))
        offset = align(offset + tensor.n_bytes, file.alignment)
    return tuple(placed), origins


def _header(file: GGUFFile) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", file.version, len(file.tensors), len(file.metadata))]
    with file.path.open("rb") as source:
        for key, entry in file.entries.items():
            if entry.end:
                source.seek(entry.start)
                parts.append(source.read(entry.end - entry.start))
            else:
                parts.append(_entry(key, entry.item_type, file.metadata[key]))
    for tensor in file.tensors:
        parts.append(_string(tensor.name.encode()))
        parts.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        parts.append(struct.pack("<IQ", tensor.ggml_type, tensor.offset))
    header = b"".join(parts)
    return header.ljust(align(len(header), file.alignment), b"\0")


def _entry(key: str, item_type: ValueType | None, value: Any) -> bytes:
    start = _string(key.encode())
    if item_type is None:
        return start + struct.pack("<I", ValueType.STRING) + _string(value.encode())
    start += struct.pack("<IIQ", ValueType.ARRAY, item_type, len(value))
    if item_type is ValueType.STRING:
        return start + b"".join(map(_string, value))
    form = "f" if item_type is ValueType.FLOAT32 else "i"
    return start + struct.pack(f"<{len(value)}{form}", *value)


def _string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _written(header: bytes, file: GGUFFile, origin: BinaryIO, output: BinaryIO) -> Iterator[int]:
    """Write the copy; yields how many bytes have been written."""
    done = output.write(header)
    yield done
    tensors, starts = _tensors(file)
    for tensor, start in zip(tensors, starts, strict=True):
        origin.seek(start)
        left = tensor.n_bytes
        while left:
            block = origin.read(min(_BLOCK, left))
            if not block:
                raise OSError(errno.EIO, "the source file got shorter meanwhile")
            left -= len(block)
            done += output.write(block)
            yield done
        done += output.write(b"\0" * (-tensor.n_bytes % file.alignment))
    yield done
