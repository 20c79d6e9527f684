"""Falcon: the ``ggcc`` layout of ggllm.cpp's ``falcon_convert.py``, or GGUF as llama.cpp's.

Falcon-7B has one layer norm in a block and one head of keys and values; Falcon-40B
(``new_decoder_architecture``) has two norms and several such heads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError
from shared.model.ggcc import N_CTX_TRAIN
from worker.convert import ggcc_writer, gguf_metadata, gguf_writer
from worker.convert.config import GELU, Config, head_width, whole_rotary
from worker.convert.layout import Format, Layout, Request
from worker.convert.legacy import read_vocabulary, require_epsilon, require_inner
from worker.convert.source import ModelFolder
from worker.convert.special_tokens import read_special_tokens
from worker.convert.tensors import Weight, encoded
from worker.convert.vocabulary import read_byte_level, require_pre_tokenizer

_ONE_NORM, _TWO_NORMS = 7, 40
"""The two Falcons that ggllm.cpp tells apart, by the number that its header has for them."""
_DEPTHS = {32: _ONE_NORM, 60: _TWO_NORMS}
"""Numbers of blocks by which it knows one of them, whatever the header says."""

_GGUF_NAMES = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
}


@dataclass(frozen=True, slots=True)
class _Shape:
    n_vocab: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_layer: int
    n_ff: int
    head_width: int
    norms: tuple[str, ...]


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file for a Falcon without biases and ALiBi.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    shape = _shape(folder.config)
    if request.file_format is Format.GGUF:
        return _gguf(folder, request, shape)
    return _ggcc(folder, request, shape)


def _shape(config: Config) -> _Shape:
    config.require("alibi", {False}, False, "the engine has only Falcons with rotary positions")
    config.require("bias", {False}, False, "the engine has only Falcons without biases")
    config.require("parallel_attn", {True}, True, "the engine has only the parallel block")
    config.require("activation", GELU, "gelu", "the engine has only GELU")
    n_embd, n_head = config.count("hidden_size"), config.count("num_attention_heads")
    is_new = config.flag("new_decoder_architecture", False)
    if not is_new:
        config.require(
            "multi_query", {True}, True, "a Falcon of the first kind shares one key/value head"
        )
    two_norms = is_new and config.count("num_ln_in_parallel_attn", 2) == 2
    n_head_kv = config.count("num_kv_heads", n_head) if is_new else 1
    if n_head % n_head_kv:
        config.fail(f"{n_head_kv} key/value heads do not divide {n_head} heads")
    return _Shape(
        n_vocab=config.count("vocab_size"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        n_layer=config.count("num_hidden_layers"),
        n_ff=config.count("ffn_hidden_size", 4 * n_embd),
        head_width=head_width(config, n_embd, n_head),
        norms=("ln_mlp", "ln_attn") if two_norms else ("input_layernorm",),
    )


def _ggcc(folder: ModelFolder, request: Request, shape: _Shape) -> Layout:
    config = folder.config
    if request.n_ctx is not None:
        raise UsageError(
            "--context-length: the ggcc layout has no context length; take GGUF, or set "
            "CONTEXT_LENGTH when serving"
        )
    require_epsilon(config, "layer_norm_epsilon")
    require_inner(config, "ffn_hidden_size", shape.n_embd)
    theta = whole_rotary(config)
    if theta != 10000:
        config.fail(f"rope_theta is {theta:g}; the ggcc layout fixes it at 10000, take GGUF")
    kind = _TWO_NORMS if len(shape.norms) == 2 else _ONE_NORM
    if _DEPTHS.get(shape.n_layer, kind) != kind:
        config.fail(
            f"with {shape.n_layer} blocks the engine takes a ggcc file for the other kind of "
            "Falcon; take GGUF"
        )
    vocabulary, notes = read_vocabulary(folder, shape.n_vocab, "falcon", holds_merges=True)
    weights = _weights(folder, shape)
    header = (
        shape.n_vocab,
        shape.n_embd,
        shape.n_head,
        shape.n_head_kv,
        shape.n_layer,
        kind,
        request.weight_type.file_type,
    )
    tensors = encoded(weights, request.weight_type)
    parts = ggcc_writer.parts(header, vocabulary.tokens, vocabulary.merges, tensors)
    return Layout("falcon", parts, (*notes, *_notes(config)))


def _notes(config: Config) -> tuple[str, ...]:
    """What to say of the context length, for which the server takes that of the first Falcons."""
    n_ctx = config.count("max_position_embeddings", N_CTX_TRAIN)
    if n_ctx == N_CTX_TRAIN:
        return ()
    start = f"the ggcc layout has no context length, and the server takes {N_CTX_TRAIN:,} tokens"
    if n_ctx > N_CTX_TRAIN:
        return (f"{start} of this model's {n_ctx:,}; GGUF keeps them all",)
    return (f"{start} for this model's {n_ctx:,}: set CONTEXT_LENGTH={n_ctx}, or take GGUF",)


def _gguf(folder: ModelFolder, request: Request, shape: _Shape) -> Layout:
    config = folder.config
    vocabulary = read_byte_level(folder).fitted(shape.n_vocab)
    theta = whole_rotary(config)
    metadata: dict[str, gguf_writer.Value] = {
        **gguf_metadata.general(folder, "falcon", request),
        # The order of the rows of query_key_value: all queries, all keys, all values.
        "falcon.tensor_data_layout": "jploski",
        "falcon.context_length": request.context(config.count("max_position_embeddings", 2048)),
        "falcon.embedding_length": shape.n_embd,
        "falcon.feed_forward_length": shape.n_ff,
        "falcon.block_count": shape.n_layer,
        "falcon.attention.head_count": shape.n_head,
        "falcon.attention.head_count_kv": shape.n_head_kv,
        "falcon.attention.layer_norm_epsilon": config.number("layer_norm_epsilon", 1e-5),
        "falcon.rope.freq_base": theta,
        **gguf_metadata.byte_level(vocabulary, require_pre_tokenizer(vocabulary)),
        **gguf_metadata.special(read_special_tokens(folder, vocabulary.tokens)),
    }
    weights = {_gguf_name(name): weight for name, weight in _weights(folder, shape).items()}
    tensors = encoded(weights, request.weight_type)
    return Layout("falcon", gguf_writer.parts(metadata, tensors))


def _weights(folder: ModelFolder, shape: _Shape) -> dict[str, Weight]:
    """All weights by their names in the source, rows of query_key_value rearranged."""
    take, n_embd = folder.weights.take, shape.n_embd
    embedding = take("transformer.word_embeddings.weight", (shape.n_vocab, n_embd))
    head = folder.head(embedding, ("lm_head.weight",), tied_by_default=True)
    found = {"transformer.word_embeddings.weight": embedding}
    n_qkv = (shape.n_head + 2 * shape.n_head_kv) * shape.head_width
    order = _rows_by_kind(shape)
    for layer in range(shape.n_layer):
        for name, size in (
            *((f"{norm}.{kind}", (n_embd,)) for norm in shape.norms for kind in ("weight", "bias")),
            ("self_attention.query_key_value.weight", (n_qkv, n_embd)),
            ("self_attention.dense.weight", (n_embd, n_embd)),
            ("mlp.dense_h_to_4h.weight", (shape.n_ff, n_embd)),
            ("mlp.dense_4h_to_h.weight", (n_embd, shape.n_ff)),
        ):
            full = f"transformer.h.{layer}.{name}"
            weight = take(full, size)
            found[full] = weight.rows(order) if "query_key_value" in name else weight
    for kind in ("weight", "bias"):
        found[f"transformer.ln_f.{kind}"] = take(f"transformer.ln_f.{kind}", (n_embd,))
    found["lm_head.weight"] = head or embedding
    folder.weights.finish()
    return found


def _rows_by_kind(shape: _Shape) -> NDArray[np.intp]:
    """Rows of query_key_value as queries, keys, values; checkpoints have a group at a time.

    A group is the queries that share one key and value head, then these two.
    """
    group = shape.n_head // shape.n_head_kv + 2
    n_rows = shape.n_head_kv * group * shape.head_width
    rows = np.arange(n_rows, dtype=np.intp).reshape(shape.n_head_kv, group, shape.head_width)
    return np.concatenate([rows[:, :-2].ravel(), rows[:, -2].ravel(), rows[:, -1].ravel()])


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("transformer.h."):
        return f"{_GGUF_NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[rest]}.{kind}"
