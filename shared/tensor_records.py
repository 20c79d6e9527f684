"""Reads the tensors of legacy model files, each with its description in front of its data."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from shared.binary_reader import BinaryReader
from shared.ggml_types import TENSOR_TYPES
from shared.gguf import TensorInfo, align
from shared.legacy_layouts import Shapes

_MAX_NAME_BYTES = 255
_HEADER_BYTES = 12
_NONE: Mapping[str, tuple[int, ...]] = MappingProxyType({})
ENGINE_TYPES = frozenset({0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14})
"""Types of matrices that ctransformers 0.2.27 computes with."""


def read_records(
    reader: BinaryReader,
    expected: Shapes,
    optional: Mapping[str, str],
    alignment: int,
    any_type: bool = False,
    also: Mapping[str, tuple[int, ...]] = _NONE,
) -> tuple[TensorInfo, ...]:
    """Read all tensors up to the file's end; their data is passed over.

    Args:
        reader: stands before the first tensor.
        expected: shape and type of each tensor.
        optional: names of tensors that may be missing.
        alignment: the data of each begins at a multiple of this position in the file.
        any_type: matrices may be of any of `ENGINE_TYPES`.
        also: shapes that tensors may have instead.

    Raises:
        ModelFileError: a tensor is missing, unknown, doubled or not as expected, or the file does
            not end with the last one.
    """
    found: dict[str, TensorInfo] = {}
    first_data = None
    while reader.at < reader.size:
        if reader.size - reader.at < _HEADER_BYTES and found:
            reader.fail(f"damaged: {reader.size - reader.at} bytes follow the last tensor")
        n_dims, length, ggml_type = reader.numbers("3i")
        where = f"after {len(found)} of {len(expected)} tensors"
        if n_dims not in (1, 2) or not 1 <= length <= _MAX_NAME_BYTES:
            reader.fail(f"damaged {where}: {n_dims} dimensions, and a name of {length:,} bytes")
        shape = reader.numbers(f"{n_dims}i")
        raw_name = reader.raw(length)
        name = raw_name.decode("ascii", "replace")
        if name not in expected:
            reader.fail(f"damaged {where}: it has an unknown tensor {name[:80]!r}")
        if name in found:
            reader.fail(f"damaged: tensor {name} occurs twice")
        due, wtype = expected[name]
        due = shape if also.get(name) == shape else due
        _check(reader, name, (shape, ggml_type), (due, wtype), any_type)
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
    missing_names = [name for name in expected if name not in found and name not in optional]
    if missing_names:
        others = f" (and {len(missing_names) - 1} others)" if len(missing_names) > 1 else ""
        reader.fail(f"the file is cut short: tensor {missing_names[0]} is missing{others}")
    return tuple(found.values())


def _check(
    reader: BinaryReader,
    name: str,
    found: tuple[tuple[int, ...], int],
    due: tuple[tuple[int, ...], int],
    any_type: bool,
) -> None:
    if found[0] != due[0]:
        reader.fail(f"tensor {name} has the shape {found[0]} where {due[0]} is due")
    if found[1] == due[1] or (any_type and len(due[0]) == 2 and found[1] in ENGINE_TYPES):
        if found[0][0] % TENSOR_TYPES[found[1]][1]:
            reader.fail(
                f"tensor {name} is of type {TENSOR_TYPES[found[1]][0]}, "
                f"which rows of {found[0][0]} do not fit"
            )
        return
    known = TENSOR_TYPES.get(found[1], (f"number {found[1]}",))[0]
    wanted = "another" if any_type and len(due[0]) == 2 else TENSOR_TYPES[due[1]][0]
    reader.fail(f"tensor {name} is of type {known} where {wanted} is due")
