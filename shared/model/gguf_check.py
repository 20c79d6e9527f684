"""Checks that a GGUF file can be given to ctransformers 0.2.27, whatever its architecture.

That library looks at little: what it does not know it leaves out, and a wrong type or id ends the
process. So a model is checked here for all that the engine's evaluation rests on.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from shared.model.description import BPE_EOS, SENTENCEPIECE_EOS, Dimensions, Family, FileFormat
from shared.model.gguf import MERGES, SCORES, TOKEN_TYPES, TOKENS, GGUFFile, TokenType, ValueType
from shared.model.layouts import LLAMA, Table, falcon, shapes_of
from shared.model.memory import max_layers
from shared.model.tensors import ENGINE_TYPES, F32, TENSOR_TYPES, and_others


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the library wants of one architecture."""

    family: Family  #: its value is the name in files
    epsilon: str  #: metadata key of the norms' epsilon, without the architecture's name
    #: Metadata that the library ignores, each with the only value that means nothing, and what
    #: another would mean.
    neutral: tuple[tuple[str, Any, str], ...] = ()


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(Family.LLAMA, "attention.layer_norm_rms_epsilon"),
        "falcon": Architecture(
            Family.FALCON,
            "attention.layer_norm_epsilon",
            neutral=(
                ("tensor_data_layout", "jploski", "another order of its attention weights"),
                ("use_parallel_residual", True, "layers one after another"),
            ),
        ),
    }
)
"""The architectures whose GGUF files the library reads."""
_OF_LEGACY_FILES = frozenset({"starcoder", "mpt", "gpt2", "gptneox"})


def architecture_of(file: GGUFFile) -> Architecture:
    """What the library wants of the file.

    Raises:
        ModelFileError: it does not know the file's architecture.
    """
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        legacy = file.architecture in _OF_LEGACY_FILES
        advice = "; it serves this model as a legacy .bin file" if legacy else ""
        file.fail(
            f"its architecture is {file.architecture!r:.60}; "
            f"the engine reads only {' and '.join(ARCHITECTURES)} GGUF files{advice}"
        )
    return known


def is_40b(file: GGUFFile) -> bool:
    """Whether the layers have two norms; the library goes by what it finds, too."""
    return any(".attn_norm_2." in tensor.name for tensor in file.tensors)


def table_of(file: GGUFFile) -> Table:
    """The tensors that the library wants of the file, which is of a known architecture."""
    return LLAMA if file.architecture == "llama" else falcon(is_40b(file))


def check_gguf(file: GGUFFile) -> None:
    """Check that ctransformers 0.2.27 can load the file and will compute what the model means.

    Raises:
        ModelFileError: it cannot, or it would ignore something that matters.
    """
    checker = _Checker(file, architecture_of(file))
    checker.check_numbers()
    checker.check_unsupported(file.size)
    checker.check_vocabulary()
    checker.check_tensors(file.size)


class _Checker:
    """The parts of `check_gguf`."""

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
        found, wanted = (entry.value_type, entry.item_type), (value_type, item_type)
        if found != wanted:
            if entry.value_type is ValueType.ARRAY and item_type is None:
                self.fail(f"metadata {key} is a list: layers that differ are not supported")
            self.fail(
                f"metadata {key} has the type {_type_name(*found)}, not {_type_name(*wanted)}"
            )
        return self.file.metadata[key]

    def check_numbers(self) -> None:
        for key in (
            "context_length",
            "embedding_length",
            "feed_forward_length",
            "block_count",
            "attention.head_count",
            "attention.head_count_kv",
        ):
            optional = key.endswith("head_count_kv")
            value = self.require(f"{self.prefix}.{key}", ValueType.UINT32, optional=optional)
            if value is not None and not 1 <= value < 1 << 31:
                self.fail(f"metadata {self.prefix}.{key} is {value}")
        for key, lowest in (
            (self.architecture.epsilon, 0.0),
            ("rope.freq_base", 1.0),
            ("rope.scale_linear", 0.0),
        ):
            optional = key.startswith("rope")
            value = self.require(f"{self.prefix}.{key}", ValueType.FLOAT32, optional=optional)
            if value is not None and not (math.isfinite(value) and value > lowest):
                self.fail(f"metadata {self.prefix}.{key} is {value}")
        self.check_size(self.file.size)
        self.require("general.name", ValueType.STRING, optional=True)
        self.require("general.file_type", ValueType.UINT32, optional=True)
        self.require(f"{self.prefix}.rope.dimension_count", ValueType.UINT32, optional=True)

    def check_size(self, size: Dimensions) -> None:
        most = max_layers(self.architecture.family, FileFormat.GGUF)
        if size.n_layer > most:
            self.fail(f"it has {size.n_layer} layers; the engine can take {most}")
        if size.n_embd % size.n_head or (size.n_embd // size.n_head) % 2:
            self.fail(f"{size.n_head} attention heads do not divide a width of {size.n_embd}")
        if size.n_head % size.n_head_kv:
            self.fail(f"{size.n_head_kv} key/value heads do not divide {size.n_head} heads")

    def check_unsupported(self, size: Dimensions) -> None:
        """Refuse what the library does not know of and would silently leave out."""
        metadata = self.file.metadata
        head_width = size.n_embd // size.n_head
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
        if window and window < size.n_ctx_train:
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
        unknown = set(types) - set(TokenType)
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
        space = "tokenizer.ggml.add_space_prefix"
        for key in ("tokenizer.ggml.pre", "tokenizer.chat_template"):
            self.require(key, ValueType.STRING, optional=True)
        for key in ("tokenizer.ggml.add_bos_token", space):
            self.require(key, ValueType.BOOL, optional=True)
        if kind == "llama" and self.file.metadata.get(space) is False:
            self.fail(
                f"its tokenizer puts no space before a text ({space} = False), "
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

    def check_tensors(self, size: Dimensions) -> None:
        expected = shapes_of(table_of(self.file), size)
        found = {tensor.name: tensor for tensor in self.file.tensors}
        missing = [name for name in expected if name not in found]
        if missing:
            self.fail(f"tensor {missing[0]} is missing" + and_others(len(missing)))
        surplus = [name for name in found if name not in expected]
        if surplus:
            others = and_others(len(surplus)) + _why(surplus[0])
            self.fail(f"it has a tensor that the engine does not use: {surplus[0]}{others}")
        for name, shape in expected.items():
            tensor = found[name]
            if tensor.shape != shape:
                self.fail(f"tensor {name} has the shape {tensor.shape} where {shape} is due")
            allowed = {F32} if len(shape) == 1 else ENGINE_TYPES
            if tensor.ggml_type not in allowed:
                names = ", ".join(TENSOR_TYPES[number][0] for number in sorted(allowed))
                self.fail(f"tensor {name} is of type {tensor.type_name}; the engine knows {names}")


def _type_name(kind: ValueType, items: ValueType | None) -> str:
    return kind.name if items is None else f"{kind.name} of {items.name}"


def _why(name: str) -> str:
    if name.startswith("rope_"):
        return "; the model needs context scaling (as Llama 3.1 and later do)"
    if name.endswith(".bias"):
        return "; the model has biases"
    if "_exps" in name or "ffn_gate_inp" in name:
        return "; the model is a mixture of experts"
    return ""
