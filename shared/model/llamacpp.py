"""Checks and describes a GGUF file of any architecture for llama.cpp.

The library itself refuses most of what is wrong, with a reason. Checked here is what it believes:
numbers with which it ends the process, and lengths and ids past whose end it would read.
"""

import re
from collections.abc import Mapping
from typing import Any

from shared.model.description import (
    Dimensions,
    Family,
    FileFormat,
    MemoryNeeds,
    ModelFile,
    Pooling,
    TokenizerKind,
)
from shared.model.gguf import MERGES, SCORES, TOKEN_TYPES, TOKENS, GGUFFile, ValueType

ROWS = 64
"""Tokens that the engine evaluates together, at most, and one more."""
_VERSIONS = (2, 3)
_MOST_LAYERS = 512
_MOST_NUMBER = 1 << 24
_LONGEST_CONTEXT = 1 << 27
_F16, _F32 = 2, 4
_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_SPECIAL_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
# Of each architecture the numbers that the library divides by, or multiplies without a look.
_NUMBERS = (
    "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "rope.dimension_count", "expert_count",
    "expert_used_count", "attention.sliding_window", "ssm.conv_kernel", "ssm.inner_size",
    "ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "wkv.head_size",
)  # fmt: skip
_FAMILIES: Mapping[str, Family] = {
    **{family.value: family for family in Family},
    "gptneox": Family.GPT_NEOX,
}


def describe_for_llamacpp(file: GGUFFile) -> ModelFile:
    """Check a file and describe it.

    Raises:
        ModelFileError: llama.cpp would end the process, or the model is of no use here.
    """
    return _Description(file).model()


class _Description:
    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.fail = file.fail

    def model(self) -> ModelFile:
        file = self.file
        if file.version not in _VERSIONS:
            self.fail(f"GGUF version {file.version}: llama.cpp reads versions 2 and 3")
        if not file.architecture:
            self.fail("it names no architecture (general.architecture), as every model does")
        self.check_numbers()
        self.check_vocabulary()
        size = self.size()
        return ModelFile(
            path=file.path,
            n_bytes=file.n_bytes,
            n_parts=file.n_parts,
            file_format=FileFormat.GGUF,
            version=file.version,
            engine="llamacpp",
            family=_FAMILIES.get(file.architecture),
            architecture=file.architecture,
            name=file.name,
            quantisation=file.quantisation,
            size=size,
            details=self.details(),
            tokenizer=TokenizerKind.BPE
            if file.tokenizer_model == "gpt2"
            else TokenizerKind.SENTENCEPIECE,
            tokens=file.metadata[TOKENS],
            token_types=file.metadata.get(TOKEN_TYPES),
            merges=file.metadata.get(MERGES),
            pre_tokenizer=file.text("tokenizer.ggml.pre"),
            bos=file.metadata.get("tokenizer.ggml.bos_token_id"),
            eos=file.metadata.get("tokenizer.ggml.eos_token_id"),
            add_bos=file.metadata.get("tokenizer.ggml.add_bos_token"),
            chat_template=file.text("tokenizer.chat_template"),
            pooling=self.pooling(),
            tensors=file.tensors,
            n_ctx_most=size.n_ctx_train,
            memory=self.memory(size),
        )

    def check_numbers(self) -> None:
        for key in _NUMBERS:
            for number in self.numbers(key):
                if not 0 <= number <= _MOST_NUMBER:
                    self.fail(f"damaged: {self.file.architecture}.{key} is {number:,}")
        for key in ("embedding_length", "context_length"):
            if not self.most(key):
                self.fail(f"its {self.file.architecture}.{key} should be a positive number")
        if not 1 <= self.most("context_length") <= _LONGEST_CONTEXT:
            self.fail(f"damaged: it names a context of {self.most('context_length'):,} tokens")
        self.check_layers()
        self.check_rotation()
        self.check_experts()

    def check_layers(self) -> None:
        n_layers = self.most("block_count")
        found = [int(m[1]) for t in self.file.tensors if (m := _BLOCK.search(t.name))]
        if not 1 <= n_layers <= _MOST_LAYERS:
            self.fail(f"damaged: it names {n_layers:,} layers; 1 to {_MOST_LAYERS} are possible")
        if found and max(found) >= n_layers:
            self.fail(f"damaged: it names {n_layers} layers, and has tensors of {max(found) + 1}")

    def check_rotation(self) -> None:
        """Positions turn pairs of numbers within a head; without attention there are none."""
        width = self.most("attention.key_length")
        width = width or self.most("embedding_length") // max(1, self.most("attention.head_count"))
        least = 0 if self.most("ssm.conv_kernel") else 2
        for n in self.numbers("rope.dimension_count"):
            if n % 2 or not least <= n <= width:
                self.fail(
                    f"damaged: {self.file.architecture}.rope.dimension_count is {n:,}; it should be"
                    f" even, and at most {width:,}"
                )

    def check_experts(self) -> None:
        found = {tensor.shape[-1] for tensor in self.file.tensors if "_exps." in tensor.name}
        n_experts, n_used = self.most("expert_count"), self.most("expert_used_count")
        if found and (found != {n_experts} or not 1 <= n_used <= n_experts):
            self.fail(
                f"damaged: it names {n_experts:,} experts, of which {n_used:,} are used, and has"
                f" tensors of {', '.join(map(str, sorted(found)))}"
            )

    def check_vocabulary(self) -> None:
        file, n_vocab = self.file, self.file.n_vocab
        if not n_vocab or not isinstance(file.metadata[TOKENS][0], bytes):
            self.fail("it has no vocabulary")
        if file.tokenizer_model == "gpt2" and file.is_byte_form:
            self.fail(
                "its vocabulary is in the form that ctransformers reads; llama.cpp reads the file"
                " that it was made from"
            )
        for key, kind in ((TOKEN_TYPES, ValueType.INT32), (SCORES, ValueType.FLOAT32)):
            entry, values = file.entries.get(key), file.metadata.get(key)
            if entry is None:
                continue
            if entry.item_type is not kind or not values or len(values) != n_vocab:
                self.fail(f"metadata {key} should be an array of {n_vocab:,} numbers")
        for key, value in file.metadata.items():
            if _SPECIAL_ID.fullmatch(key) and not _is_id(value, n_vocab):
                self.fail(f"metadata {key} is {value!r:.40}, but there are {n_vocab} tokens")

    def pooling(self) -> Pooling:
        number = self.most("pooling_type")
        is_causal = self.file.metadata.get(f"{self.file.architecture}.attention.causal", True)
        if number not in tuple(Pooling):
            self.fail(f"it pools embeddings in an unknown way ({number})")
        if number == Pooling.RANK:
            self.fail("it ranks documents (pooling type rank), which is not served here")
        if number == Pooling.NONE and not is_causal:
            self.fail("it attends to later tokens, but does not say how its embeddings are pooled")
        return Pooling(number)

    def size(self) -> Dimensions:
        n_head = self.most("attention.head_count")
        return Dimensions(
            n_vocab=self.file.n_vocab,
            n_ctx_train=self.most("context_length"),
            n_embd=self.most("embedding_length"),
            n_head=n_head,
            n_head_kv=max(self.heads_kv(), default=n_head),
            n_layer=self.most("block_count"),
            n_ff=self.most("feed_forward_length"),
        )

    def heads_kv(self) -> list[int]:
        """Heads of keys and values of each layer; of recurrent layers 0, where the file says so."""
        n_layers = self.most("block_count")
        heads = self.numbers("attention.head_count_kv") or self.numbers("attention.head_count")
        return heads * n_layers if len(heads) == 1 else heads

    def memory(self, size: Dimensions) -> MemoryNeeds:
        """What the engine takes, at most: windows are counted as if they were the context."""
        head = size.n_embd // max(1, size.n_head)
        width = sum(self.most(f"attention.{kind}_length") or head for kind in ("key", "value"))
        is_causal = self.file.metadata.get(f"{self.file.architecture}.attention.causal", True)
        row = _F32 * (8 * size.n_embd + 3 * size.n_ff + size.n_vocab)
        scratch_per_token = ROWS * size.n_head * _F32
        return MemoryNeeds(
            weights=self.file.weight_bytes,
            kv_per_token=_F16 * width * sum(self.heads_kv()) if is_causal else 0,
            scratch=ROWS * row + size.n_ctx_train * scratch_per_token,
            scratch_per_token=scratch_per_token,
            per_slot=_F32 * (size.n_vocab + size.n_layer * self.state(size)),
        )

    def state(self, size: Dimensions) -> int:
        """Numbers that a recurrent layer keeps of a sequence; 0 for models of attention alone."""
        inner, width = self.most("ssm.inner_size"), self.most("ssm.state_size")
        mixed = inner + 2 * max(1, self.most("ssm.group_count")) * width
        mamba = inner * width + self.most("ssm.conv_kernel") * mixed
        return mamba + size.n_embd * self.most("wkv.head_size")

    def details(self) -> dict[str, float]:
        names = ("rope.freq_base", "attention.sliding_window", "expert_count", "expert_used_count")
        values = {name: self.file.metadata.get(f"{self.file.architecture}.{name}")
                  for name in names}  # fmt: skip
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    def most(self, key: str) -> int:
        return max(self.numbers(key), default=0)

    def numbers(self, key: str) -> list[int]:
        """A number, or those of each layer; none if there is none."""
        value = self.file.metadata.get(f"{self.file.architecture}.{key}")
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, int) for each in values):
            self.fail(f"damaged: {self.file.architecture}.{key} is {value!r:.40}")
        return list(values)


def _is_id(value: Any, n_vocab: int) -> bool:
    return isinstance(value, int) and 0 <= value < n_vocab
