"""What a GGUF file says of itself: metadata, tensors, and what they mean for a model.

`gguf_reader` reads files, `gguf_check` checks that one can be given to the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import ModelFileError
from shared.model.description import Dimensions
from shared.model.tensors import FILE_TYPES, TENSOR_TYPES, TensorInfo, dominant_type

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"  # nosec B105  # a name, no secret
MERGES = "tokenizer.ggml.merges"
CHAT_TEMPLATE = "tokenizer.chat_template"
_NAMED_TEMPLATE = f"{CHAT_TEMPLATE}."
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
    kind: form
    for kind, form in zip(ValueType, "BbHhIif?  Qqd", strict=True)
    if kind not in (ValueType.STRING, ValueType.ARRAY)
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
class MetadataEntry:
    """How one metadata value is stored."""

    value_type: ValueType
    item_type: ValueType | None = None  #: of an array's items
    start: int = 0  #: where the entry (key, type, value) begins in the file
    end: int = 0  #: 0 where it is in no file yet


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a GGUF file that is whole: every byte of it is accounted for."""

    path: Path
    version: int  #: of the format: 1, 2 or 3
    #: Every value by its key. Strings are `str`, arrays lists; the vocabulary and its merges are
    #: lists of `bytes`, as they stand in the file.
    metadata: Mapping[str, Any]
    entries: Mapping[str, MetadataEntry]  #: how each of these values is stored
    tensors: tuple[TensorInfo, ...]  #: in the file's order
    data_offset: int  #: where the tensor data begins
    alignment: int  #: of the tensor data
    n_bytes: int  #: length of the file, or of all its parts
    n_parts: int = 1  #: files of the model

    @property
    def architecture(self) -> str:
        """The model family that the file names, e.g. ``llama``."""
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str:
        return self.text("general.name") or self.path.stem

    @property
    def size(self) -> Dimensions:
        """The model's numbers.

        Raises:
            ModelFileError: one is missing or not positive.
        """
        has_kv = f"{self.architecture}.attention.head_count_kv" in self.metadata
        n_head = self._count("attention.head_count")
        return Dimensions(
            n_vocab=self.n_vocab,
            n_ctx_train=self._count("context_length"),
            n_embd=self._count("embedding_length"),
            n_head=n_head,
            n_head_kv=self._count("attention.head_count_kv") if has_kv else n_head,
            n_layer=self._count("block_count"),
            n_ff=self._count("feed_forward_length"),
        )

    @property
    def n_vocab(self) -> int:
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
    def tokenizer_model(self) -> str:
        """Kind of tokenizer: ``llama`` (SentencePiece), ``gpt2`` (byte-level BPE) or another."""
        return self.text("tokenizer.ggml.model") or ""

    @property
    def is_byte_form(self) -> bool:
        """Whether the vocabulary holds raw bytes: `gguf_rewrite` wrote it, or it is old.

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
    def named_templates(self) -> dict[str, str]:
        """Chat templates for some use, e.g. ``tool_use``, beside the one for all others."""
        return {
            key.removeprefix(_NAMED_TEMPLATE): value
            for key, value in self.metadata.items()
            if key.startswith(_NAMED_TEMPLATE) and isinstance(value, str)
        }

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def most(self, key: str) -> int:
        """The largest of `numbers`; 0 if there is none."""
        return max(self.numbers(key), default=0)

    def numbers(self, key: str) -> list[int]:
        """A number of the architecture, or those of each layer; none if there is none.

        Raises:
            ModelFileError: there is something else.
        """
        value = self.metadata.get(f"{self.architecture}.{key}")
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, int) for each in values):
            self.fail(f"damaged: {self.architecture}.{key} is {value!r:.40}")
        return list(values)

    def fail(self, problem: str) -> NoReturn:
        raise ModelFileError.about(self.path, problem)

    def _count(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            found = "missing" if value is None else f"{value!r:.40}"
            self.fail(
                f"its metadata {self.architecture}.{key} should be a positive number: {found}"
            )
        return value
