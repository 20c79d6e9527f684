"""Describes GGUF files as models."""

from typing import Any

from shared.default_ids import BPE_EOS, END_OF_TEXT, SENTENCEPIECE_BOS, SENTENCEPIECE_EOS
from shared.engine_memory import Dimensions, needs
from shared.gguf import MERGES, TOKEN_TYPES, TOKENS, GGUFFile, dominant_type
from shared.gguf_architectures import architecture_of, check_gguf
from shared.gguf_falcon import is_40b
from shared.gguf_rewrite import needs_rewrite, rewritten
from shared.model_file import Family, FileFormat, ModelFile, TokenizerKind


def describe_gguf(file: GGUFFile) -> ModelFile:
    """Check a file, in the form that the engine will get it in, and describe it.

    Raises:
        ModelFileError: the engine could not serve it.
    """
    family = architecture_of(file).family
    rewrite = needs_rewrite(file)
    # What the engine will see; the file itself where nothing has to be rewritten.
    final = rewritten(file) if rewrite else file
    check_gguf(final)
    bpe = file.tokenizer_model == "gpt2"
    bos, eos = _special_ids(final, bpe)
    add_bos = _boolean(file, "tokenizer.ggml.add_bos_token")
    size = Dimensions(
        final.n_vocab,
        final.n_ctx_train,
        final.n_embd,
        final.n_head,
        final.n_head_kv,
        final.n_layer,
        final.n_ff,
    )
    memory, n_ctx_most = needs(
        FileFormat.GGUF,
        family,
        size,
        final.weight_bytes,
        dominant_type(final.tensors),
        is_40b(final),
    )
    pre = file.metadata.get("tokenizer.ggml.pre")
    return ModelFile(
        path=file.path,
        file_format=FileFormat.GGUF,
        version=file.version,
        family=family,
        name=file.name,
        quantisation=file.quantisation,
        n_vocab=final.n_vocab,
        n_ctx_train=final.n_ctx_train,
        n_embd=final.n_embd,
        n_head=final.n_head,
        n_head_kv=final.n_head_kv,
        n_layer=final.n_layer,
        n_ff=final.n_ff,
        details=_details(final, family),
        tokenizer=TokenizerKind.BPE if bpe else TokenizerKind.SENTENCEPIECE,
        tokens=final.metadata[TOKENS],
        token_types=final.metadata[TOKEN_TYPES],
        merges=final.metadata[MERGES] if bpe else None,
        pre_tokenizer=pre if isinstance(pre, str) else None,
        bos=bos,
        eos=eos,
        add_bos=add_bos,
        chat_template=file.chat_template,
        tensors=file.tensors,
        n_bytes=file.n_bytes,
        needs_rewrite=rewrite,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def _special_ids(file: GGUFFile, bpe: bool) -> tuple[int | None, int | None]:
    bos: Any = file.metadata.get("tokenizer.ggml.bos_token_id")
    eos: Any = file.metadata.get("tokenizer.ggml.eos_token_id")
    if not bpe:
        return (
            SENTENCEPIECE_BOS if bos is None else bos,
            SENTENCEPIECE_EOS if eos is None else eos,
        )
    if eos is None and file.metadata[TOKENS][BPE_EOS] == END_OF_TEXT:
        eos = BPE_EOS
    return bos, eos


def _boolean(file: GGUFFile, key: str) -> bool | None:
    value = file.metadata.get(key)
    return value if isinstance(value, bool) else None


def _details(file: GGUFFile, family: Family) -> dict[str, float]:
    prefix = family.value
    details: dict[str, float] = {}
    for name in ("rope.freq_base", "rope.scale_linear"):
        value = file.metadata.get(f"{prefix}.{name}")
        if value is not None:
            details[name] = value
    epsilon = architecture_of(file).epsilon
    details[epsilon] = file.metadata[f"{prefix}.{epsilon}"]
    return details
