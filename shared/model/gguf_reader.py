"""Reads the header of GGUF files, and believes nothing that it finds there.

The library behind the engine does: a wrong length, count or type ends the process, or gives a model
that talks nonsense. So no file reaches it that is not known to be whole and sound.
"""

import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from shared.model.gguf import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MERGES,
    TOKENS,
    VALUE_FORMATS,
    GGUFFile,
    MetadataEntry,
    ValueType,
)
from shared.model.reader import BinaryReader, mapped
from shared.model.tensors import TENSOR_TYPES, TensorInfo, align

_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63
_MAX_STRING_BYTES = 64 << 20
_MAX_ARRAY_ITEMS = 8 << 20
"""Of all arrays together; the largest vocabularies have a few hundred thousand entries."""
_MAX_ALIGNMENT = 1 << 20


def read_gguf(path: Path | str) -> GGUFFile:
    """Read the header of a GGUF file and check that the file is whole.

    Versions 1 to 3 are known; version 1 has 32-bit counts, lengths and dimensions.

    Raises:
        ModelFileError: the file cannot be read, is no GGUF file, or is damaged.
    """
    path = Path(path)
    with mapped(path) as data:
        return _Reader(path, data).read()


class _Reader(BinaryReader):
    """What has been found up to a position in the file."""

    array_items = 0
    size_form = "Q"
    """`struct` format of counts, lengths and dimensions."""

    def read(self) -> GGUFFile:
        version = self.version()
        n_tensors = self.count("tensors", least_bytes=24)
        n_entries = self.count("metadata entries", least_bytes=9)
        metadata: dict[str, Any] = {}
        entries: dict[str, MetadataEntry] = {}
        for _ in range(n_entries):
            self.metadata_entry(metadata, entries)
        alignment = self.alignment(metadata, entries)
        tensors = tuple(self.tensor() for _ in range(n_tensors))
        data_offset = align(self.at, alignment)
        self.check_layout(tensors, data_offset, alignment)
        return GGUFFile(
            self.path, version, metadata, entries, tensors, data_offset, alignment, self.size
        )

    def version(self) -> int:
        if self.size < len(MAGIC):
            self.fail(f"not a GGUF file: it has only {self.size} bytes")
        magic = self.raw(len(MAGIC))
        if magic != MAGIC:
            self.fail(f"not a GGUF file: it begins with {magic!r}")
        version: int = self.number("I")
        if version in (1, 2, 3):
            if version == 1:
                self.size_form = "I"
            return version
        if version in (2 << 24, 3 << 24):
            self.fail("it was written for big-endian machines")
        self.fail(f"GGUF version {version} is not known; versions 1, 2 and 3 are")

    def count(self, what: str, least_bytes: int) -> int:
        """Read a count of things that take at least so many bytes each."""
        count: int = self.number(self.size_form)
        if count > (self.size - self.at) // least_bytes:
            self.fail(
                f"the file is cut short or damaged: {count:,} {what} do not fit in the rest of it"
            )
        return count

    def string(self, what: str, longest: int) -> bytes:
        length: int = self.number(self.size_form)
        if length > longest:
            self.fail(f"damaged: {what} of {length:,} bytes")
        return self.raw(length)

    def text(self, what: str, longest: int) -> str:
        return self.decode(self.string(what, longest), what)

    def decode(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.fail(f"damaged: {what} is not UTF-8: {raw[:40]!r}")

    def name(self, what: str, longest: int) -> str:
        """Read a text that C will see as a string: it ends at a NUL."""
        name = self.text(what, longest)
        if not name or "\0" in name:
            self.fail(f"damaged: {what} is {name!r:.80}")
        return name

    def value_type(self, key: str) -> ValueType:
        number = self.number("I")
        try:
            return ValueType(number)
        except ValueError:
            self.fail(f"damaged: metadata {key} has the unknown type {number}")

    def metadata_entry(self, metadata: dict[str, Any], entries: dict[str, MetadataEntry]) -> None:
        start = self.at
        key = self.name("a metadata key", _MAX_KEY_BYTES)
        if key in metadata:
            self.fail(f"damaged: metadata {key} occurs twice")
        value_type = self.value_type(key)
        item_type = None
        if value_type is ValueType.STRING:
            metadata[key] = self.text(f"metadata {key}", _MAX_STRING_BYTES)
        elif value_type is ValueType.ARRAY:
            item_type = self.value_type(key)
            metadata[key] = self.array(key, item_type)
        else:
            metadata[key] = self.number(VALUE_FORMATS[value_type])
        entries[key] = MetadataEntry(value_type, item_type, start, self.at)

    def array(self, key: str, item_type: ValueType) -> list[Any]:
        if item_type is ValueType.ARRAY:
            self.fail(f"metadata {key} is an array of arrays, which is not known")
        if item_type is ValueType.STRING:
            count = self.items(key, self.size_form)
            items = self.words(count, _MAX_STRING_BYTES, self.size_form)
            if key in (TOKENS, MERGES):
                return items
            return [self.decode(item, f"metadata {key}") for item in items]
        form = VALUE_FORMATS[item_type]
        return list(self.numbers(f"{self.items(key, form)}{form}"))

    def items(self, key: str, form: str) -> int:
        count = self.count(f"items of {key}", struct.calcsize("<" + form))
        self.array_items += count
        if self.array_items > _MAX_ARRAY_ITEMS:
            self.fail(f"damaged: {count:,} items in metadata {key}")
        return count

    def alignment(self, metadata: dict[str, Any], entries: dict[str, MetadataEntry]) -> int:
        if "general.alignment" not in metadata:
            return DEFAULT_ALIGNMENT
        value = metadata["general.alignment"]
        if (
            entries["general.alignment"].value_type is not ValueType.UINT32
            or not 8 <= value <= _MAX_ALIGNMENT
            or value & (value - 1)
        ):
            self.fail(f"damaged: its alignment is {value!r:.40}, not a power of two from 8 up")
        return int(value)

    def tensor(self) -> TensorInfo:
        name = self.name("a tensor name", _MAX_NAME_BYTES)
        n_dims = self.number("I")
        if not 1 <= n_dims <= 4:
            self.fail(f"damaged: tensor {name} has {n_dims} dimensions")
        shape = self.numbers(f"{n_dims}{self.size_form}")
        ggml_type = self.number("I")
        if ggml_type not in TENSOR_TYPES:
            self.fail(f"tensor {name} has the unknown type {ggml_type}")
        _, block, block_bytes = TENSOR_TYPES[ggml_type]
        if 0 in shape or shape[0] % block:
            self.fail(f"damaged: tensor {name} has the shape {shape}")
        n_bytes = math.prod(shape) // block * block_bytes
        return TensorInfo(name, shape, ggml_type, self.number("Q"), n_bytes)

    def check_layout(
        self, tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int
    ) -> None:
        """Check that the tensors follow each other without a gap, up to the file's end."""
        twice = [name for name, n in Counter(t.name for t in tensors).items() if n > 1]
        if twice:
            self.fail(f"damaged: tensor {twice[0]} occurs twice")
        end = padded_end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset % alignment:
                self.fail(f"damaged: the data of tensor {tensor.name} is not aligned")
            if tensor.offset != padded_end:
                self.fail(
                    f"damaged: the data of tensor {tensor.name} begins at {tensor.offset:,}, "
                    f"where {padded_end:,} is due"
                )
            end = tensor.offset + tensor.n_bytes
            padded_end = align(end, alignment)
        if not tensors:
            data_offset = self.at
        missing = data_offset + end - self.size
        if missing > 0:
            self.fail(
                f"the file is cut short: {missing:,} of {data_offset + end:,} bytes are missing"
            )
        surplus = self.size - (data_offset + padded_end)
        if surplus > 0 and tensors:
            self.fail(f"damaged: {surplus:,} bytes follow the last tensor")
