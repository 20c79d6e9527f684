"""A model file before it is written: bytes and tensors in turn."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from shared.errors import UsageError
from worker.convert.tensors import Tensor, WeightType

Part: TypeAlias = bytes | Tensor


class Format(str, Enum):
    """The layouts that ctransformers 0.2.27 reads."""

    GGML = "ggml"
    """The first one, of ggml's own examples; every family has its own header."""
    GGCC = "ggcc"
    """Falcon's, of the ggllm.cpp project."""
    GGUF = "gguf"


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted of a conversion.

    Attributes:
        file_format: layout of the file.
        weight_type: type of the matrices.
        n_ctx: context length in tokens, where it is to be shorter than the model's own.
    """

    file_format: Format
    weight_type: WeightType
    n_ctx: int | None = None

    def context(self, n_ctx_train: int) -> int:
        """The context length for a model that was made for ``n_ctx_train`` tokens.

        Raises:
            UsageError: a longer one is asked for.
        """
        if self.n_ctx is None:
            return n_ctx_train
        if self.n_ctx > n_ctx_train:
            raise UsageError(
                f"--context-length: {self.n_ctx:,} is more than the model's own {n_ctx_train:,}"
            )
        return self.n_ctx


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole file.

    Attributes:
        family: of the model, as ``config.json`` names it.
        parts: what the file consists of, from its first byte on.
        notes: what whoever converts should know about the result.
    """

    family: str
    parts: Sequence[Part]
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Length of the file."""
        return sum(size(part) for part in self.parts)


def size(part: Part) -> int:
    """Length of a part in bytes."""
    return len(part) if isinstance(part, bytes) else part.n_bytes


def legacy_file_type(weight_type: WeightType) -> int:
    """The ``ftype`` of a legacy header: quantised ones carry ggml's version 2 in the thousands."""
    return weight_type.file_type + (2000 if weight_type.is_quantised else 0)


def legacy_record(tensor: Tensor) -> bytes:
    """What stands before a tensor's data in the legacy layouts: sizes, type, shape, name."""
    name = tensor.name.encode()
    dims = tensor.shape[::-1]
    return struct.pack(f"<{3 + len(dims)}i", len(dims), len(name), tensor.tensor_type, *dims) + name


def counted(raw: bytes) -> bytes:
    """A string of the legacy layouts."""
    return struct.pack("<I", len(raw)) + raw
