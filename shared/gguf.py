"""What a GGUF file says of itself: metadata, tensors, and what they mean for a model.

`shared.gguf_reader` reads files, `shared.gguf_check` checks that one can be given to the engine.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import ModelFileError
from shared.ggml_types import FILE_TYPES, TENSOR_TYPES

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"  # nosec B105  # a name, no secret
MERGES = "tokenizer.ggml.merges"
TOKEN_FORM = "ggml_fastapi.token_form"  # nosec B105  # the same
BYTE_FORM = "bytes"
_LETTERS = frozenset({"\u010a".encode(), "\u0120".encode()})
"""GPT-2's letters for line feed and space."""


class ValueType(IntEnum):
    """The types of metadata values, with the numbers they have in files."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


VALUE_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""How `struct` reads each; strings and arrays have a length in front."""


class TokenType(IntEnum):
    """What kind of token an entry of the vocabulary is."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    Attributes:
        name: e.g. ``blk.0.attn_q.weight``.
        shape: number of elements per dimension, the contiguous dimension first.
        ggml_type: number of the data type.
        offset: where its data begins, counted from the start of all tensor data.
        n_bytes: length of its data.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    n_bytes: int

    @property
    def type_name(self) -> str:
        """Name of the data type, e.g. ``Q4_1``."""
        return TENSOR_TYPES[self.ggml_type][0]


def dominant_type(tensors: Iterable[TensorInfo]) -> int:
    """Return the number of the type that most bytes of some tensors, one at least, are of."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        sizes[tensor.ggml_type] += tensor.n_bytes
    return sizes.most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """How one metadata value is stored.

    Attributes:
        value_type: type of the value.
        item_type: type of an array's items; None where the value is no array.
        start: where the entry (key, type, value) begins in the file.
        end: where it ends.
    """

    value_type: ValueType
    item_type: ValueType | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a GGUF file that is whole: every byte of it is accounted for.

    Attributes:
        path: where it was read from.
        version: of the format: 1, 2 or 3.
        metadata: every value by its key. Strings are `str`, arrays lists; the vocabulary and its
            merges are lists of `bytes`, as they stand in the file.
        entries: how each of these values is stored.
        tensors: in the file's order.
        data_offset: where the tensor data begins.
        alignment: of the tensor data.
        n_bytes: length of the file.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    entries: Mapping[str, MetadataEntry]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    n_bytes: int

    @property
    def architecture(self) -> str:
        """The model family that the file names, e.g. ``llama``."""
        return self._text("general.architecture") or ""

    @property
    def name(self) -> str:
        """The model's own name, or the file's."""
        return self._text("general.name") or self.path.stem

    @property
    def n_layer(self) -> int:
        """How many transformer blocks there are."""
        return self._count("block_count")

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return self._count("embedding_length")

    @property
    def n_ff(self) -> int:
        """Width of the feed-forward layers."""
        return self._count("feed_forward_length")

    @property
    def n_head(self) -> int:
        """How many attention heads there are."""
        return self._count("attention.head_count")

    @property
    def n_head_kv(self) -> int:
        """How many heads of keys and values there are; fewer than `n_head` where heads share."""
        if f"{self.architecture}.attention.head_count_kv" not in self.metadata:
            return self.n_head
        return self._count("attention.head_count_kv")

    @property
    def n_ctx_train(self) -> int:
        """The context length, in tokens, that the model was trained for."""
        return self._count("context_length")

    @property
    def n_vocab(self) -> int:
        """How many token ids there are."""
        tokens = self.metadata.get(TOKENS)
        return len(tokens) if isinstance(tokens, list) else 0

    @property
    def quantisation(self) -> str:
        """Name of the file type, e.g. ``Q4_1``; the dominant tensor type if it is not named."""
        number = self.metadata.get("general.file_type")
        if isinstance(number, int) and number in FILE_TYPES:
            return FILE_TYPES[number]
        return TENSOR_TYPES[dominant_type(self.tensors)][0] if self.tensors else "unknown"

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja template for chats."""
        return self._text("tokenizer.chat_template")

    @property
    def tokenizer_model(self) -> str:
        """Kind of tokenizer: ``llama`` (SentencePiece), ``gpt2`` (byte-level BPE) or another."""
        return self._text("tokenizer.ggml.model") or ""

    @property
    def is_byte_form(self) -> bool:
        """Whether the vocabulary holds raw bytes: `shared.gguf_rewrite` wrote it, or it is old.

        Files of 2023 do not say so. But only they have a line feed and a space by themselves, and
        not the letters that stand for them.
        """
        if self.metadata.get(TOKEN_FORM) == BYTE_FORM:
            return True
        tokens = self.metadata.get(TOKENS)
        if not isinstance(tokens, list):
            return False
        return b"\n" in tokens and b" " in tokens and not set(tokens) >= _LETTERS

    @property
    def weight_bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    def fail(self, problem: str) -> NoReturn:
        """Say what is wrong with the file.

        Raises:
            ModelFileError: always.
        """
        raise ModelFileError.about(self.path, problem)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            found = "missing" if value is None else f"{value!r:.40}"
            self.fail(
                f"its metadata {self.architecture}.{key} should be a positive number: {found}"
            )
        return value


def align(position: int, alignment: int) -> int:
    """Return the first multiple of ``alignment`` that is not before ``position``."""
    return (position + alignment - 1) // alignment * alignment
