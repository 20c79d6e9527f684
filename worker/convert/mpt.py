"""MPT with ALiBi and without biases, in the legacy layout of ggml's example ``mpt``."""

import struct

from worker.convert import ggml_writer
from worker.convert.config import Config, head_width
from worker.convert.layout import Layout, Request, legacy_file_type
from worker.convert.legacy import read_vocabulary, require_epsilon
from worker.convert.source import ModelFolder
from worker.convert.tensors import Weight, encoded

_NORMS = {"low_precision_layernorm", "layernorm"}
_ATTENTION = (
    ("alibi", True, True, "the engine has only MPTs with ALiBi"),
    ("qk_ln", False, False, "the engine has no norms of queries and keys"),
    ("prefix_lm", False, False, "the engine has only causal attention"),
    ("attn_uses_sequence_id", False, False, "the engine has one sequence at a time"),
    ("rope", False, False, "the engine has only MPTs with ALiBi"),
    ("sliding_window_size", -1, -1, "the engine attends to all earlier tokens"),
    ("attn_type", "multihead_attention", "multihead_attention", "the engine has only that"),
)
"""Setting of attention, what the engine computes, what a missing setting means, and why."""


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    config = folder.config
    _check(config)
    attention = config.section("attn_config")
    n_vocab, n_embd = config.count("vocab_size"), config.count("d_model")
    n_head, n_layer = config.count("n_heads"), config.count("n_layers")
    _check_scale(attention, head_width(config, n_embd, n_head))
    vocabulary, notes = read_vocabulary(folder, n_vocab, "gpt-2", "NFC")
    weights = _weights(folder, n_vocab, n_embd, n_layer)
    header = struct.pack(
        "<5i2fi",
        n_embd,
        request.context(config.count("max_seq_len")),
        n_head,
        n_layer,
        n_vocab,
        attention.number("alibi_bias_max", 8),
        # The engine takes 0 for no clipping.
        attention.number("clip_qkv", 0),
        legacy_file_type(request.weight_type),
    )
    tokens = [token_form(token) for token in vocabulary.tokens]
    tensors = encoded(weights, request.weight_type)
    return Layout("mpt", ggml_writer.parts(header, tokens, tensors), notes)


def token_form(token: bytes) -> bytes:
    """Spell a token as this family's reader wants it: each byte as the character of its number."""
    return token.decode("latin-1").encode()


def _check(config: Config) -> None:
    config.require("no_bias", {True}, True, "the engine has only MPTs without biases")
    config.require_number("expansion_ratio", 4, 4, "this layout fixes it at 4")
    config.require_number("embedding_fraction", 1, 1, "the engine has only plain embeddings")
    config.require("norm_type", _NORMS, "low_precision_layernorm", "the engine has only layer norm")
    config.require("logit_scale", {None}, None, "the engine does not scale logits")
    config.require("tie_word_embeddings", {True}, True, "the engine has only tied embeddings")
    feed_forward = config.section("ffn_config")
    feed_forward.require("ffn_type", {"mptmlp"}, "mptmlp", "the engine has only MPT's own")
    require_epsilon(config, "layer_norm_epsilon")
    attention = config.section("attn_config")
    for key, wanted, default, why in _ATTENTION:
        attention.require(key, {wanted}, default, why)
    if attention.number("clip_qkv", 0) < 0:
        attention.fail("clip_qkv is negative")


def _check_scale(attention: Config, width: int) -> None:
    usual = width**-0.5
    attention.require_number(
        "softmax_scale", usual, usual, f"the engine divides by the root of the head's width {width}"
    )


def _weights(folder: ModelFolder, n_vocab: int, n_embd: int, n_layer: int) -> dict[str, Weight]:
    """All weights by their names, which are the same in the file."""
    take = folder.weights.take
    sizes: dict[str, tuple[int, ...]] = {
        "norm_1.weight": (n_embd,),
        "attn.Wqkv.weight": (3 * n_embd, n_embd),
        "attn.out_proj.weight": (n_embd, n_embd),
        "norm_2.weight": (n_embd,),
        "ffn.up_proj.weight": (4 * n_embd, n_embd),
        "ffn.down_proj.weight": (n_embd, 4 * n_embd),
    }
    found = {"transformer.wte.weight": take("transformer.wte.weight", (n_vocab, n_embd))}
    for layer in range(n_layer):
        for name, size in sizes.items():
            full = f"transformer.blocks.{layer}.{name}"
            found[full] = take(full, size)
    found["transformer.norm_f.weight"] = take("transformer.norm_f.weight", (n_embd,))
    folder.weights.leave("lm_head.weight")
    folder.weights.finish()
    return found
