"""Tensors in model files: their types, and the reader of those in legacy files."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shared.model.reader import BinaryReader

TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Per number of a tensor type in ggml: name, elements in a block, bytes of a block."""
F32 = 0
ENGINE_TYPES = frozenset({0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14})
"""Types of matrices that ctransformers 0.2.27 computes with."""

REPACKED_TYPES = frozenset({2, 12, 20, 39})
"""Types of matrices that llama.cpp's package for x86-64 keeps in another order than the file's, as
the library says when it loads them (AVX2, 2026.10.11549)."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
    16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S", 32: "BF16",
}  # fmt: skip
"""Per ``general.file_type`` of GGUF: its name."""

_MAX_NAME_BYTES = 255
_HEADER_BYTES = 12
_NO_OTHERS: Mapping[str, tuple[int, ...]] = {}
FLOAT_MATRICES = frozenset({"model/wpe"})
"""Matrices of legacy files that are F32 whatever the others are."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as a file describes it."""

    name: str
    shape: tuple[int, ...]  #: elements per dimension, the contiguous dimension first
    ggml_type: int
    offset: int  #: bytes from the start of the first tensor's data
    n_bytes: int

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.ggml_type][0]


def dominant_type(tensors: Iterable[TensorInfo]) -> int:
    """The type that most bytes of some tensors, one at least, are of."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        sizes[tensor.ggml_type] += tensor.n_bytes
    return sizes.most_common(1)[0][0]


def align(position: int, alignment: int) -> int:
    """The first multiple of ``alignment`` that is not before ``position``."""
    return (position + alignment - 1) // alignment * alignment


def read_records(
    reader: BinaryReader,
    shapes: Mapping[str, tuple[int, ...]],
    matrix_type: int | None,
    *,
    optional: Collection[str] = (),
    alignment: int = 1,
    also: Mapping[str, tuple[int, ...]] = _NO_OTHERS,
) -> tuple[TensorInfo, ...]:
    """Read tensors, each with its description in front, up to the file's end; data is skipped.

    Args:
        reader: stands before the first tensor.
        shapes: of each tensor by its name.
        matrix_type: type of the matrices; None for any of `ENGINE_TYPES`. Vectors are F32.
        optional: names of tensors that may be missing.
        alignment: data begins at multiples of this position in the file.
        also: shapes that tensors may have instead.

    Raises:
        ModelFileError: a tensor is missing, unknown, doubled or not as it should be, or the file
            does not end with the last one.
    """
    found: dict[str, TensorInfo] = {}
    first_data = None
    while reader.at < reader.size:
        if reader.size - reader.at < _HEADER_BYTES and found:
            reader.fail(f"damaged: {reader.size - reader.at} bytes follow the last tensor")
        name, shape, ggml_type = _description(reader, len(found), len(shapes))
        if name not in shapes:
            reader.fail(
                f"damaged after {len(found)} of {len(shapes)} tensors: "
                f"it has an unknown tensor {name[:80]!r}"
            )
        if name in found:
            reader.fail(f"damaged: tensor {name} occurs twice")
        if shape not in (shapes[name], also.get(name)):
            reader.fail(f"tensor {name} has the shape {shape} where {shapes[name]} is due")
        is_float = len(shape) == 1 or name in FLOAT_MATRICES
        _check_type(reader, name, shape[0], ggml_type, F32 if is_float else matrix_type)
        _, block, block_bytes = TENSOR_TYPES[ggml_type]
        n_bytes = math.prod(shape) // block * block_bytes
        reader.skip(align(reader.at, alignment) - reader.at)
        if first_data is None:
            first_data = reader.at
        if n_bytes > reader.size - reader.at:
            missing = n_bytes - (reader.size - reader.at)
            reader.fail(f"the file is cut short: {missing:,} bytes of tensor {name} are missing")
        found[name] = TensorInfo(name, shape, ggml_type, reader.at - first_data, n_bytes)
        reader.skip(n_bytes)
    missing_names = [name for name in shapes if name not in found and name not in optional]
    if missing_names:
        others = and_others(len(missing_names))
        reader.fail(f"the file is cut short: tensor {missing_names[0]} is missing{others}")
    return tuple(found.values())


def and_others(count: int) -> str:
    return f" (and {count - 1} others)" if count > 1 else ""


def _description(
    reader: BinaryReader, n_found: int, n_tensors: int
) -> tuple[str, tuple[int, ...], int]:
    n_dims, length, ggml_type = reader.numbers("3i")
    if n_dims not in (1, 2) or not 1 <= length <= _MAX_NAME_BYTES:
        reader.fail(
            f"damaged after {n_found} of {n_tensors} tensors: "
            f"{n_dims} dimensions, and a name of {length:,} bytes"
        )
    shape = reader.numbers(f"{n_dims}i")
    return reader.raw(length).decode("ascii", "replace"), shape, ggml_type


def _check_type(reader: BinaryReader, name: str, row: int, ggml_type: int, due: int | None) -> None:
    if ggml_type != due and not (due is None and ggml_type in ENGINE_TYPES):
        known = TENSOR_TYPES.get(ggml_type, (f"number {ggml_type}",))[0]
        wanted = "another" if due is None else TENSOR_TYPES[due][0]
        reader.fail(f"tensor {name} is of type {known} where {wanted} is due")
    type_name, block, _ = TENSOR_TYPES[ggml_type]
    if row % block:
        reader.fail(f"tensor {name} is of type {type_name}, which rows of {row} do not fit")
