"""What a model file says of itself, whatever its format: the description that all else works from.

`shared.inspector` makes one from a file that it has checked to the last byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from shared.gguf import TensorInfo


class Family(str, Enum):
    """An architecture that the engine can evaluate; the values are what users see and say."""

    LLAMA = "llama"
    FALCON = "falcon"
    STARCODER = "starcoder"
    MPT = "mpt"
    GPT2 = "gpt2"
    GPT_NEOX = "gpt-neox"


class FileFormat(str, Enum):
    """How a model file is laid out."""

    GGUF = "gguf"
    GGCC = "ggcc"
    """Falcon files of ggllm.cpp."""
    GGML = "ggml"
    """The unversioned layouts of ggml's examples, one for each family."""


class TokenizerKind(str, Enum):
    """What turns text into the ids of the vocabulary."""

    BPE = "bpe"
    """Byte-level byte-pair encoding, as GPT-2's."""
    SENTENCEPIECE = "sentencepiece"


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What the engine takes for a model, in bytes.

    Attributes:
        weights: all weights as they lie in memory; N workers share them.
        kv_per_token: KV cache for one token of context, in each worker.
        scratch: the most that evaluation buffers take in each worker, with a context of
            `ModelFile.n_ctx_most` tokens full.
        scratch_per_token: by how much that shrinks for each token that the context is shorter.
    """

    weights: int
    kv_per_token: int
    scratch: int
    scratch_per_token: int = 0


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A whole and sound model file that the engine can serve.

    Attributes:
        path: where it is.
        file_format: its layout.
        version: of the layout; 0 where it has none.
        family: the architecture.
        name: the model's own name, or the file's stem.
        quantisation: e.g. ``Q4_0``.
        n_vocab: how many token ids there are.
        n_ctx_train: the context length in tokens that the model was made for.
        n_embd: width of the hidden state.
        n_head: attention heads.
        n_head_kv: heads of keys and values that the weights hold.
        n_layer: transformer blocks.
        n_ff: width of the feed-forward layers.
        details: further numbers of the family by name, e.g. ``alibi_bias_max``, for people.
        tokenizer: kind of tokenizer.
        tokens: each id's text. For BPE the very bytes that it stands for (special tokens: their
            UTF-8 text), for SentencePiece the piece as the file has it.
        token_types: each id's `shared.gguf.TokenType`; None where the format does not tell.
        merges: BPE merges in order of rank, ``left right`` in GPT-2's byte letters; None where the
            file holds none.
        pre_tokenizer: the pre-tokenizer that the file names (``tokenizer.ggml.pre``).
        bos: id that begins a sequence, if the model has one.
        eos: id that ends one, if the model has one.
        add_bos: whether a prompt begins with ``bos``; None where the file does not say.
        chat_template: the file's own Jinja template.
        tensors: in the file's order; offsets count from the start of the tensor data, in files
            that describe each tensor in front of its data from the first tensor's data.
        n_bytes: length of the file.
        needs_rewrite: `shared.gguf_rewrite` has to copy it into the form that the engine reads.
        n_ctx_most: the longest context that the engine's fixed buffers can take; at most
            ``n_ctx_train``.
        memory: what the engine will take for it, at ``n_ctx_most``.
    """

    path: Path
    file_format: FileFormat
    version: int
    family: Family
    name: str
    quantisation: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_layer: int
    n_ff: int
    details: dict[str, float]
    tokenizer: TokenizerKind
    tokens: Sequence[bytes]
    token_types: Sequence[int] | None
    merges: Sequence[bytes] | None
    pre_tokenizer: str | None
    bos: int | None
    eos: int | None
    add_bos: bool | None
    chat_template: str | None
    tensors: tuple[TensorInfo, ...]
    n_bytes: int
    needs_rewrite: bool
    n_ctx_most: int
    memory: MemoryNeeds

    @property
    def library_type(self) -> str:
        """What ctransformers is told that the file is.

        GPT-2 is told to be StarCoder: files and results are the same to the bit, but the
        library's code for StarCoder reuses its evaluation buffers, and so takes longer contexts.
        """
        if self.file_format is FileFormat.GGUF:
            return "gguf"
        family = Family.STARCODER if self.family is Family.GPT2 else self.family
        return str(family.value)
