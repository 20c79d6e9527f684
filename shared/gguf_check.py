"""Checks that a GGUF file can be given to ctransformers 0.2.27, whatever its architecture.

That library looks at little: what it does not know it leaves out, and a wrong type or id ends the
process. So a model is checked here for all that the engine's evaluation rests on.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.default_ids import BPE_EOS, SENTENCEPIECE_EOS
from shared.engine_memory import max_layers
from shared.ggml_types import F32, TENSOR_TYPES
from shared.gguf import MERGES, SCORES, TOKEN_TYPES, TOKENS, GGUFFile, TokenType, ValueType
from shared.model_file import Family, FileFormat
from shared.tensor_records import ENGINE_TYPES

Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor by its name, contiguous dimension first."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the library wants of one architecture.

    Attributes:
        family: which one; its value is the name in files.
        epsilon: the metadata key of the norms' epsilon, without the architecture's name.
        shapes: gives every tensor that a file must have.
        neutral: further metadata that the library ignores, each with the only value that means
            nothing, and what another would mean.
    """

    family: Family
    epsilon: str
    shapes: Callable[[GGUFFile], Shapes]
    neutral: tuple[tuple[str, Any, str], ...] = ()


def check(file: GGUFFile, architecture: Architecture) -> None:
    """Check that the library can load the file and will compute what the model means.

    Args:
        file: of that architecture.
        architecture: what the library wants of it.

    Raises:
        ModelFileError: it cannot, or it would ignore something that matters.
    """
    checker = _Checker(file, architecture)
    checker.check_hyperparameters()
    checker.check_unsupported()
    checker.check_vocabulary()
    checker.check_tensors()


class _Checker:
    """The parts of `check`."""

    def __init__(self, file: GGUFFile, architecture: Architecture) -> None:
        self.file = file
        self.architecture = architecture
        self.prefix = architecture.family.value
        self.fail = file.fail

    def require(
        self,
        key: str,
        value_type: ValueType,
        item_type: ValueType | None = None,
        optional: bool = False,
    ) -> Any:
        """Return a metadata value; its type must be the very one that the library reads."""
        entry = self.file.entries.get(key)
        if entry is None:
            if optional:
                return None
            self.fail(f"metadata {key} is missing")
        if (entry.value_type, entry.item_type) != (value_type, item_type):
            if entry.value_type is ValueType.ARRAY and item_type is None:
                self.fail(f"metadata {key} is a list: layers that differ are not supported")
            found, wanted = (
                kind.name + (f" of {items.name}" if items is not None else "")
                for kind, items in (
                    (entry.value_type, entry.item_type),
                    (value_type, item_type),
                )
            )
            self.fail(f"metadata {key} has the type {found}, not {wanted}")
        return self.file.metadata[key]

    def check_hyperparameters(self) -> None:
        for key in (
            "context_length",
            "embedding_length",
            "feed_forward_length",
            "block_count",
            "attention.head_count",
            "attention.head_count_kv",
        ):
            value = self.require(
                f"{self.prefix}.{key}", ValueType.UINT32, optional=key.endswith("head_count_kv")
            )
            if value is not None and not 1 <= value < 1 << 31:
                self.fail(f"metadata {self.prefix}.{key} is {value}")
        file = self.file
        most = max_layers(self.architecture.family, FileFormat.GGUF)
        if file.n_layer > most:
            self.fail(f"it has {file.n_layer} layers; the engine can take {most}")
        if file.n_embd % file.n_head or (file.n_embd // file.n_head) % 2:
            self.fail(f"{file.n_head} attention heads do not divide a width of {file.n_embd}")
        if file.n_head % file.n_head_kv:
            self.fail(f"{file.n_head_kv} key/value heads do not divide {file.n_head} heads")
        for key, lowest in (
            (self.architecture.epsilon, 0.0),
            ("rope.freq_base", 1.0),
            ("rope.scale_linear", 0.0),
        ):
            optional = key.startswith("rope")
            value = self.require(f"{self.prefix}.{key}", ValueType.FLOAT32, optional=optional)
            if value is not None and not (math.isfinite(value) and value > lowest):
                self.fail(f"metadata {self.prefix}.{key} is {value}")
        self.require("general.name", ValueType.STRING, optional=True)
        self.require("general.file_type", ValueType.UINT32, optional=True)
        self.require(f"{self.prefix}.rope.dimension_count", ValueType.UINT32, optional=True)

    def check_unsupported(self) -> None:
        """Refuse what the library does not know of and would silently leave out."""
        metadata = self.file.metadata
        head_width = self.file.n_embd // self.file.n_head
        for key, neutral, what in (
            ("rope.dimension_count", head_width, "rotary embedding of a part of each head"),
            ("attention.key_length", head_width, "attention heads of an own width"),
            ("attention.value_length", head_width, "attention heads of an own width"),
            ("expert_count", 0, "a mixture of experts"),
            ("attention.causal", True, "attention to later tokens (an embedding model)"),
            ("rope.scaling.factor", 1, "context scaling"),
            ("logit_scale", 1, "scaled logits"),
            *self.architecture.neutral,
        ):
            value = metadata.get(f"{self.prefix}.{key}", neutral)
            if value != neutral:
                self.fail(
                    f"it needs {what} ({self.prefix}.{key} = {value!r:.40}), "
                    "which the engine has not"
                )
        key = f"{self.prefix}.attention.sliding_window"
        window = self.require(key, ValueType.UINT32, optional=True)
        if window and window < self.file.n_ctx_train:
            self.fail(f"it attends to the last {window} tokens; the engine takes all of them")
        if metadata.get("split.count", 0) not in (0, 1):
            self.fail("it is a part of a model; merge its files into one first")
        scaling = metadata.get(f"{self.prefix}.rope.scaling.type", "none")
        # Linear scaling by 1 is none; any other factor has been refused above.
        if scaling not in ("none", "linear"):
            self.fail(f"it needs {scaling!r:.40} context scaling, which the engine has not")

    def check_vocabulary(self) -> None:
        kind = self.require("tokenizer.ggml.model", ValueType.STRING)
        if kind not in ("llama", "gpt2"):
            self.fail(f"its tokenizer is of the kind {kind!r:.40}; 'llama' and 'gpt2' are known")
        if kind == "gpt2" and not self.file.is_byte_form:
            self.fail("its BPE vocabulary is not in the byte form that the engine reads")
        self.check_use(kind)
        tokens = self.require(TOKENS, ValueType.ARRAY, ValueType.STRING)
        scores = self.require(SCORES, ValueType.ARRAY, ValueType.FLOAT32)
        types = self.require(TOKEN_TYPES, ValueType.ARRAY, ValueType.INT32)
        if not len(tokens) == len(scores) == len(types):
            self.fail(
                f"its vocabulary has {len(tokens)} tokens, {len(scores)} scores "
                f"and {len(types)} token types"
            )
        unknown = set(types) - {int(kind) for kind in TokenType}
        if unknown:
            self.fail(f"its vocabulary has a token of the unknown type {min(unknown)}")
        if kind == "gpt2":
            self.require(MERGES, ValueType.ARRAY, ValueType.STRING)
        # The library looks this token up while it loads.
        newline = b"\n" if kind == "gpt2" else b"<0x0A>"
        if newline not in tokens:
            self.fail(f"its vocabulary has no token {newline.decode()!r}")
        self.check_special_ids(BPE_EOS if kind == "gpt2" else SENTENCEPIECE_EOS)
        for token, token_type in zip(tokens, types, strict=True):
            if token_type == TokenType.BYTE and not re.fullmatch(rb"<0x[0-9A-Fa-f]{2}>", token):
                self.fail(f"its vocabulary has the byte token {token[:40]!r}")

    def check_use(self, kind: str) -> None:
        """Check what the file says of how its vocabulary is used."""
        for key, value_type in (
            ("tokenizer.ggml.pre", ValueType.STRING),
            ("tokenizer.ggml.add_bos_token", ValueType.BOOL),
            ("tokenizer.ggml.add_space_prefix", ValueType.BOOL),
            ("tokenizer.chat_template", ValueType.STRING),
        ):
            value = self.require(key, value_type, optional=True)
            if kind == "llama" and key.endswith("add_space_prefix") and value is False:
                self.fail(
                    f"its tokenizer puts no space before a text ({key} = False), "
                    "but the engine's always does"
                )

    def check_special_ids(self, default: int) -> None:
        n_vocab = self.file.n_vocab
        for key in self.file.metadata:
            if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key):
                value = self.require(key, ValueType.UINT32)
                if value >= n_vocab:
                    self.fail(f"metadata {key} is {value}, but there are {n_vocab} tokens")
        # The ids that the library falls back to where the file names none.
        if n_vocab <= default:
            self.fail(f"its vocabulary has only {n_vocab} tokens")

    def check_tensors(self) -> None:
        file = self.file
        expected = self.architecture.shapes(file)
        found = {tensor.name: tensor for tensor in file.tensors}
        missing = [name for name in expected if name not in found]
        if missing:
            self.fail(f"tensor {missing[0]} is missing" + _and_others(len(missing)))
        surplus = [name for name in found if name not in expected]
        if surplus:
            self.fail(
                f"it has a tensor that the engine does not use: {surplus[0]}"
                + _and_others(len(surplus))
                + _why(surplus[0])
            )
        for name, shape in expected.items():
            tensor = found[name]
            if tensor.shape != shape:
                self.fail(f"tensor {name} has the shape {tensor.shape} where {shape} is due")
            allowed = {F32} if len(shape) == 1 else ENGINE_TYPES
            if tensor.ggml_type not in allowed:
                names = ", ".join(TENSOR_TYPES[number][0] for number in sorted(allowed))
                self.fail(f"tensor {name} is of type {tensor.type_name}; the engine knows {names}")


def _and_others(count: int) -> str:
    return f" (and {count - 1} others)" if count > 1 else ""


def _why(name: str) -> str:
    if name.startswith("rope_"):
        return "; the model needs context scaling (as Llama 3.1 and later do)"
    if name.endswith(".bias"):
        return "; the model has biases"
    if "_exps" in name or "ffn_gate_inp" in name:
        return "; the model is a mixture of experts"
    return ""
