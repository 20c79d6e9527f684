"""LLaMA and models of its shape, as GGUF."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.convert import gguf_metadata, gguf_writer
from worker.convert.config import Config, head_width, whole_rotary
from worker.convert.layout import Layout, Request
from worker.convert.sentencepiece import MODEL_FILE, read_sentencepiece
from worker.convert.source import ModelFolder
from worker.convert.special_tokens import read_special_tokens
from worker.convert.tensors import Weight, encoded
from worker.convert.vocabulary import read_byte_level, require_pre_tokenizer


@dataclass(frozen=True, slots=True)
class _Shape:
    n_vocab: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_layer: int
    n_ff: int
    head_width: int


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    config = folder.config
    shape = _shape(config)
    theta = whole_rotary(config)
    tokenizer, notes = _tokenizer(folder, shape.n_vocab)
    metadata: dict[str, gguf_writer.Value] = {
        **gguf_metadata.general(folder, "llama", request),
        "llama.context_length": request.context(config.count("max_position_embeddings", 2048)),
        "llama.embedding_length": shape.n_embd,
        "llama.feed_forward_length": shape.n_ff,
        "llama.block_count": shape.n_layer,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
        "llama.rope.dimension_count": shape.head_width,
        "llama.rope.freq_base": theta,
        **tokenizer,
    }
    tensors = encoded(_weights(folder, shape), request.weight_type)
    return Layout("llama", gguf_writer.parts(metadata, tensors), notes)


def _shape(config: Config) -> _Shape:
    config.require("hidden_act", {"silu"}, "silu", "the engine has only SiLU")
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, {False}, False, "the engine has no biases in this family")
    n_embd, n_head = config.count("hidden_size"), config.count("num_attention_heads")
    n_head_kv = config.count("num_key_value_heads", n_head)
    if n_head % n_head_kv:
        config.fail(f"{n_head_kv} key/value heads do not divide {n_head} heads")
    width = head_width(config, n_embd, n_head)
    if config.count("head_dim", width) != width:
        config.fail(
            f"head_dim is {config.count('head_dim')}; the engine wants the heads to share the "
            f"width of {n_embd}, {width} for each"
        )
    return _Shape(
        n_vocab=config.count("vocab_size"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        n_layer=config.count("num_hidden_layers"),
        n_ff=config.count("intermediate_size"),
        head_width=width,
    )


def _tokenizer(
    folder: ModelFolder, n_vocab: int
) -> tuple[dict[str, gguf_writer.Value], tuple[str, ...]]:
    """Metadata of a byte-level BPE or SentencePiece vocabulary, whichever there is, and notes."""
    notes: tuple[str, ...] = ()
    if _has_pieces(folder):
        vocabulary, notes = read_sentencepiece(folder)
        vocabulary = vocabulary.fitted(n_vocab)
        metadata = gguf_metadata.sentencepiece(vocabulary)
    else:
        vocabulary = read_byte_level(folder).fitted(n_vocab)
        metadata = gguf_metadata.byte_level(vocabulary, require_pre_tokenizer(vocabulary))
    special = gguf_metadata.special(read_special_tokens(folder, vocabulary.tokens))
    return {**metadata, **special}, notes


def _has_pieces(folder: ModelFolder) -> bool:
    """Whether the tokenizer is SentencePiece's; such ones fall back to tokens for single bytes."""
    model = folder.optional("tokenizer.json").section("model")
    if not model.values:
        return (folder.path / MODEL_FILE).is_file()
    return model.flag("byte_fallback", False)


def _weights(folder: ModelFolder, shape: _Shape) -> dict[str, Weight]:
    """All weights by their names in the file."""
    take, n_embd = folder.weights.take, shape.n_embd
    n_kv = shape.n_head_kv * shape.head_width
    embedding = take("model.embed_tokens.weight", (shape.n_vocab, n_embd))
    head = folder.head(embedding, ("lm_head.weight",), tied_by_default=False)
    found = {"token_embd.weight": embedding}
    for layer in range(shape.n_layer):
        for source, target, size in (
            ("input_layernorm", "attn_norm", (n_embd,)),
            ("self_attn.q_proj", "attn_q", (n_embd, n_embd)),
            ("self_attn.k_proj", "attn_k", (n_kv, n_embd)),
            ("self_attn.v_proj", "attn_v", (n_kv, n_embd)),
            ("self_attn.o_proj", "attn_output", (n_embd, n_embd)),
            ("post_attention_layernorm", "ffn_norm", (n_embd,)),
            ("mlp.gate_proj", "ffn_gate", (shape.n_ff, n_embd)),
            ("mlp.up_proj", "ffn_up", (shape.n_ff, n_embd)),
            ("mlp.down_proj", "ffn_down", (n_embd, shape.n_ff)),
        ):
            weight = take(f"model.layers.{layer}.{source}.weight", size)
            if target in ("attn_q", "attn_k"):
                weight = weight.rows(_interleaved(size[0], shape.head_width))
            found[f"blk.{layer}.{target}.weight"] = weight
    found["output_norm.weight"] = take("model.norm.weight", (n_embd,))
    found["output.weight"] = head or embedding
    folder.weights.finish()
    return found


def _interleaved(n_rows: int, head_width: int) -> NDArray[np.intp]:
    """Rows of queries or keys in the order of Meta's own checkpoints, which the engine rotates.

    The transformers library has the first halves of all rotated pairs before the second ones.
    """
    rows = np.arange(n_rows, dtype=np.intp).reshape(-1, 2, head_width // 2)
    return np.ravel(rows.swapaxes(1, 2))
