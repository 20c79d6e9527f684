"""What a model file says of itself, whatever its format: the description that all else works from.

`shared.model.inspect` makes one from a file that it has checked to the last byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType

from shared.errors import UsageError
from shared.model.tensors import REPACKED_TYPES, TensorInfo, align

# Tokens that ctransformers 0.2.27 takes for granted where a file does not name them.
END_OF_TEXT = b"<|endoftext|>"
"""The token that ends texts, and begins them, in most byte-level BPE vocabularies."""
BPE_EOS = 11
"""Falcon's id of it, which the library takes for every byte-level BPE vocabulary."""
SENTENCEPIECE_BOS = 1
SENTENCEPIECE_EOS = 2
_CELLS = 256
"""The library makes so many cells of a cache at a time."""


class Family(str, Enum):
    """An architecture that ctransformers evaluates; the values are what users see and say."""

    LLAMA = "llama"
    FALCON = "falcon"
    STARCODER = "starcoder"
    MPT = "mpt"
    GPT2 = "gpt2"
    GPT_NEOX = "gpt-neox"


class FileFormat(str, Enum):
    """How a model file is laid out."""

    GGUF = "gguf"
    GGCC = "ggcc"  #: Falcon files of ggllm.cpp
    GGML = "ggml"  #: the unversioned layouts of ggml's examples, one for each family


class TokenizerKind(str, Enum):
    """What turns text into the ids of the vocabulary."""

    BPE = "bpe"  #: byte-level byte-pair encoding, as GPT-2's
    SENTENCEPIECE = "sentencepiece"
    WORDPIECE = "wordpiece"
    UNIGRAM = "unigram"
    OTHER = "of another kind"


class Pooling(IntEnum):
    """How the hidden states of a text become its embedding, by llama.cpp's numbers."""

    NONE = 0  #: a model that writes text
    MEAN = 1
    CLS = 2  #: that of the first token
    LAST = 3
    RANK = 4


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What the engine takes for a model, in bytes."""

    #: all weights as they lie in memory, and the vocabulary; N workers share them
    weights: int
    kv_per_token: int  #: KV cache for one token of context, in each worker
    #: the most that evaluation buffers take in each worker, with a full context of `n_ctx_most`
    scratch: int
    scratch_per_token: int = 0  #: by how much that shrinks for each token less of context
    per_slot: int = 0  #: for each sequence that is evaluated together with others
    state: int = 0  #: of that, what recurrent layers keep of it
    window: int = 0  #: tokens of a sequence that some layers see; 0: all layers see all
    kv_per_window_token: int = 0  #: KV cache of these layers for one token of it
    rows: int = 0  #: tokens that are evaluated together

    def caches(self, n_ctx: int, slots: int) -> int:
        """The KV caches of ``slots`` sequences that share ``n_ctx`` tokens, and their states."""
        seen = align(slots * self.window + self.rows, _CELLS) if self.window else 0
        of_windows = min(n_ctx, seen) * self.kv_per_window_token
        return n_ctx * self.kv_per_token + of_windows + slots * self.per_slot

    def with_q8_0(self) -> "MemoryNeeds":
        """The same with caches of that type, which has 34 bytes for 32 numbers of 16 bits."""
        return replace(
            self,
            kv_per_token=self.kv_per_token * 34 // 64,
            kv_per_window_token=self.kv_per_window_token * 34 // 64,
        )

    def apart(self, slots: int) -> "MemoryNeeds":
        """The same where each of so many sequences has ``n_ctx`` tokens of its own."""
        of_windows = align(self.window + self.rows, _CELLS) * self.kv_per_window_token
        return replace(
            self,
            kv_per_token=slots * self.kv_per_token,
            per_slot=self.per_slot + (of_windows if self.window else 0),
            window=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The numbers of a model that its tensors and its memory follow from."""

    n_vocab: int
    n_ctx_train: int  #: context length in tokens that the model was made for
    n_embd: int  #: width of the hidden state
    n_head: int
    n_head_kv: int  #: heads of keys and values that the weights hold
    n_layer: int
    n_ff: int  #: width of the feed-forward layers

    @property
    def n_embd_kv(self) -> int:
        """Width of keys (or values) of a token in one layer."""
        return self.n_embd // self.n_head * self.n_head_kv


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A whole and sound model file that an engine can serve."""

    path: Path
    n_bytes: int  #: length of the file, or of all its parts
    n_parts: int = 1  #: files; `path` is the first
    file_format: FileFormat
    version: int = 0  #: of the layout; 0 where it has none
    engine: str = "ctransformers"  #: or ``llamacpp``
    family: Family | None  #: None: an architecture that only llama.cpp evaluates
    architecture: str = ""  #: as a file for llama.cpp names it
    name: str  #: the model's own, or the file's stem
    quantisation: str  #: e.g. ``Q4_0``
    size: Dimensions
    #: further numbers of the family by name, e.g. ``alibi_bias_max``, for people
    details: Mapping[str, float] = field(default_factory=dict)
    tokenizer: TokenizerKind = TokenizerKind.BPE
    #: Each id's text. For BPE the very bytes that it stands for (special tokens: their UTF-8 text),
    #: for SentencePiece the piece as the file has it.
    tokens: Sequence[bytes]
    token_types: Sequence[int] | None = None  #: each id's `TokenType`; None: the file does not tell
    #: BPE merges by rank, ``left right`` in GPT-2's byte letters; None where the file holds none
    merges: Sequence[bytes] | None = None
    pre_tokenizer: str | None = None  #: that the file names (``tokenizer.ggml.pre``)
    bos: int | None = None  #: id that begins a sequence
    eos: int | None = None  #: id that ends one
    add_bos: bool | None = None  #: whether a prompt begins with ``bos``; None: not said
    chat_template: str | None = None  #: the file's own, in Jinja
    named_templates: Mapping[str, str] = field(default_factory=dict)  #: its others, by their use
    pooling: Pooling = Pooling.NONE
    tensors: tuple[TensorInfo, ...]  #: in the file's order
    needs_rewrite: bool = False  #: `gguf_rewrite` has to copy it into the form the engine reads
    #: the longest context that the engine's fixed buffers can take; at most ``n_ctx_train``
    n_ctx_most: int
    memory: MemoryNeeds  #: at ``n_ctx_most``

    @property
    def is_repacked(self) -> bool:
        """Whether llama.cpp keeps matrices in another order, beside those of a mapped file."""
        return any(tensor.ggml_type in REPACKED_TYPES for tensor in self.tensors)

    @property
    def family_name(self) -> str:
        return self.architecture if self.family is None else str(self.family.value)

    @property
    def n_vocab(self) -> int:
        return self.size.n_vocab

    @property
    def n_ctx_train(self) -> int:
        return self.size.n_ctx_train

    @property
    def library_type(self) -> str:
        """What ctransformers is told that the file is.

        GPT-2 is told to be StarCoder: files and results are the same to the bit, but the
        library's code for StarCoder reuses its evaluation buffers, and so takes longer contexts.
        """
        if self.file_format is FileFormat.GGUF:
            return "gguf"
        return Family.STARCODER.value if self.family is Family.GPT2 else self.family_name


MODEL_TYPES: Mapping[str, Family | None] = MappingProxyType(
    {
        "gguf": None,
        **dict.fromkeys(("llama", "mistral"), Family.LLAMA),
        **dict.fromkeys(("falcon", "refinedweb", "refinedwebmodel"), Family.FALCON),
        **dict.fromkeys(
            ("starcoder", "gptbigcode", "starchat", "wizardcoder", "santacoder"), Family.STARCODER
        ),
        "mpt": Family.MPT,
        "gpt2": Family.GPT2,
        **dict.fromkeys(("gptneox", "pythia", "stablelm", "redpajama", "dollyv2"), Family.GPT_NEOX),
    }
)
"""Family per accepted spelling of ``MODEL_TYPE``, in lower case and without punctuation; None for
``gguf``, which any GGUF file is."""


def family_named(model_type: str) -> Family | None:
    """The family that a ``MODEL_TYPE`` names; None for ``gguf``.

    Raises:
        UsageError: there is none of that name.
    """
    plain = "".join(letter for letter in model_type.lower() if letter.isalnum())
    if plain not in MODEL_TYPES:
        known = ", ".join(["gguf", *(family.value for family in Family)])
        raise UsageError(f"MODEL_TYPE={model_type!r:.40} is not known; it can be {known}")
    return MODEL_TYPES[plain]
