"""Describes a GGUF file of any architecture for llama.cpp."""

from collections.abc import Mapping

from shared.model.description import (
    Dimensions,
    Family,
    FileFormat,
    ModelFile,
    Pooling,
    TokenizerKind,
)
from shared.model.gguf import CHAT_TEMPLATE, MERGES, TOKEN_TYPES, TOKENS, GGUFFile
from shared.model.llamacpp_check import check_for_llamacpp
from shared.model.llamacpp_memory import heads_kv, needs

_TOKENIZERS = {
    "gpt2": TokenizerKind.BPE,
    "llama": TokenizerKind.SENTENCEPIECE,
    "bert": TokenizerKind.WORDPIECE,
    "t5": TokenizerKind.UNIGRAM,
}
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
        check_for_llamacpp(file)
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
            tokenizer=_TOKENIZERS.get(file.tokenizer_model, TokenizerKind.OTHER),
            tokens=file.metadata[TOKENS],
            token_types=file.metadata.get(TOKEN_TYPES),
            merges=file.metadata.get(MERGES),
            pre_tokenizer=file.text("tokenizer.ggml.pre"),
            bos=file.metadata.get("tokenizer.ggml.bos_token_id"),
            eos=file.metadata.get("tokenizer.ggml.eos_token_id"),
            add_bos=file.metadata.get("tokenizer.ggml.add_bos_token"),
            chat_template=file.text(CHAT_TEMPLATE),
            named_templates=file.named_templates,
            pooling=self.pooling(),
            tensors=file.tensors,
            n_ctx_most=size.n_ctx_train,
            memory=needs(file, size),
        )

    def pooling(self) -> Pooling:
        number = self.file.most("pooling_type")
        is_causal = self.file.metadata.get(f"{self.file.architecture}.attention.causal", True)
        if number not in tuple(Pooling):
            self.fail(f"it pools embeddings in an unknown way ({number})")
        if number == Pooling.RANK:
            self.fail("it ranks documents (pooling type rank), which is not served here")
        if number == Pooling.NONE and not is_causal:
            self.fail("it attends to later tokens, but does not say how its embeddings are pooled")
        return Pooling(number)

    def size(self) -> Dimensions:
        n_head, n_layer = self.file.most("attention.head_count"), self.file.most("block_count")
        return Dimensions(
            n_vocab=self.file.n_vocab,
            n_ctx_train=self.file.most("context_length"),
            n_embd=self.file.most("embedding_length"),
            n_head=n_head,
            n_head_kv=max(heads_kv(self.file, n_layer), default=n_head),
            n_layer=n_layer,
            n_ff=self.file.most("feed_forward_length"),
        )

    def details(self) -> dict[str, float]:
        names = ("rope.freq_base", "attention.sliding_window", "expert_count", "expert_used_count")
        values = {name: self.file.metadata.get(f"{self.file.architecture}.{name}")
                  for name in names}  # fmt: skip
        return {name: value for name, value in values.items() if isinstance(value, int | float)}
