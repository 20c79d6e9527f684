"""Tensors between two files: mapped in the source, encoded block by block for the target."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError
from shared.model.tensors import TENSOR_TYPES

Floats: TypeAlias = NDArray[np.float32]

_BLOCK_ELEMENTS = 1 << 20
"""How many elements are widened and encoded at a time: 4 MB of 32-bit floats."""


class WeightType(Enum):
    """What the matrices of a model are stored as.

    Attributes:
        tensor_type: ggml's number of the type in a tensor's record.
        file_type: ggml's number of a file that is mostly of this type.
        largest: the largest absolute value that can be stored; a quantised block is scaled by a
            16-bit float, times at most 127 or 8.
    """

    F32 = ("f32", 0, 0, float(np.finfo(np.float32).max))
    F16 = ("f16", 1, 1, 65504.0)
    Q4_0 = ("q4_0", 2, 2, 65504.0 * 8)
    Q8_0 = ("q8_0", 8, 7, 65504.0 * 127)

    def __init__(self, label: str, tensor_type: int, file_type: int, largest: float) -> None:
        """Take the columns of the table."""
        self.label = label
        self.tensor_type = tensor_type
        self.file_type = file_type
        self.largest = largest

    @property
    def is_quantised(self) -> bool:
        """Whether it stores blocks of 32 elements with a scale."""
        return self in (WeightType.Q4_0, WeightType.Q8_0)


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the source, which lies in its file until it is asked for.

    Attributes:
        name: as the source has it.
        values: of any shape; 32-bit or 16-bit floats, or the bits of bfloat16 as 16-bit integers.
        order: which row of ``values`` stands at each place; None for all, as they are.
    """

    name: str
    values: NDArray[Any]
    order: NDArray[np.intp] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, as PyTorch and numpy have it."""
        n_rows = self.values.shape[0] if self.order is None else len(self.order)
        return (n_rows, *self.values.shape[1:])

    @property
    def transposed(self) -> "Weight":
        """The same with rows and columns exchanged."""
        return replace(self, values=self.values.T)

    def rows(self, order: NDArray[np.intp]) -> "Weight":
        """The same with other rows: rearranged, repeated or left out."""
        return replace(self, order=order)

    def first(self, n_rows: int) -> "Weight":
        """The same without the rows after the first ``n_rows``."""
        return self if n_rows == self.shape[0] else self.rows(np.arange(n_rows, dtype=np.intp))

    def blocks(self) -> Iterator[Floats]:
        """Read some rows at a time."""
        n_rows = self.shape[0]
        step = max(1, _BLOCK_ELEMENTS * n_rows // max(1, math.prod(self.shape)))
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            yield _widen(self.values[rows if self.order is None else self.order[rows]])


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the target.

    Attributes:
        name: as the engine looks it up.
        shape: rows first; files have it the other way round.
        tensor_type: ggml's number of its type.
        chunks: makes its bytes, in order.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: int
    chunks: Callable[[], Iterator[bytes | memoryview]]

    @property
    def n_bytes(self) -> int:
        """Length of its data."""
        _, block, block_bytes = TENSOR_TYPES[self.tensor_type]
        return math.prod(self.shape) // block * block_bytes


def tensor(name: str, weight: Weight, weight_type: WeightType) -> Tensor:
    """Plan a tensor of the target.

    Raises:
        UsageError: its rows cannot be cut into the blocks of ``weight_type``.
    """
    if weight_type.is_quantised and weight.shape[-1] % 32:
        raise UsageError(
            f"{weight.name}: its rows of {weight.shape[-1]} elements cannot be cut into blocks of "
            f"32, as {weight_type.label} wants; take --type f16 or f32"
        )
    return Tensor(
        name, weight.shape, weight_type.tensor_type, lambda: _encoded(weight, weight_type)
    )


def encoded(weights: Mapping[str, Weight], weight_type: WeightType) -> list[Tensor]:
    """Plan tensors by their names in the target; the engine wants vectors as 32-bit floats.

    Raises:
        UsageError: a row cannot be cut into the blocks of ``weight_type``.
    """
    return [
        tensor(name, weight, weight_type if len(weight.shape) > 1 else WeightType.F32)
        for name, weight in weights.items()
    ]


def _encoded(weight: Weight, weight_type: WeightType) -> Iterator[memoryview]:
    for block in weight.blocks():
        # False for NaN, too.
        if not (np.abs(block) <= weight_type.largest).all():
            raise UsageError(
                f"{weight.name}: holds a value that is not finite, or too large for "
                f"{weight_type.label}"
            )
        yield encode(block, weight_type).data


def encode(block: Floats, weight_type: WeightType) -> NDArray[Any]:
    """Encode rows as ggml stores them; quantisation is the ``gguf`` package's."""
    if weight_type is WeightType.F32:
        return block.astype("<f4", copy=False)
    if weight_type is WeightType.F16:
        return block.astype("<f2")
    import gguf

    quantised: NDArray[np.uint8] = gguf.quants.quantize(
        block, gguf.GGMLQuantizationType(weight_type.tensor_type)
    )
    return quantised


def _widen(values: NDArray[Any]) -> Floats:
    if values.dtype != np.uint16:
        return np.ascontiguousarray(values, dtype=np.float32)
    # bfloat16 is the upper half of a 32-bit float.
    return (np.ascontiguousarray(values, dtype=np.uint32) << 16).view(np.float32)
