"""GPT-NeoX, Pythia and their kin, in the legacy layout of ggml's example ``gpt-neox``."""

import struct

from worker.convert import ggml_writer
from worker.convert.config import GELU, Config, head_width, rotary
from worker.convert.layout import Layout, Request, legacy_file_type
from worker.convert.legacy import read_vocabulary, require_epsilon, require_inner
from worker.convert.source import ModelFolder
from worker.convert.tensors import Weight, encoded

# Current versions of the transformers library name the output layer as in every other family.
_HEADS = ("embed_out.weight", "lm_head.weight")


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    config = folder.config
    require_epsilon(config, "layer_norm_eps")
    config.require("hidden_act", GELU, "gelu", "the engine has only GELU")
    config.require("attention_bias", {True}, True, "the engine wants biases in attention")
    n_vocab, n_embd = config.count("vocab_size"), config.count("hidden_size")
    n_head, n_layer = config.count("num_attention_heads"), config.count("num_hidden_layers")
    require_inner(config, "intermediate_size", n_embd)
    n_rot = _rotated(config, head_width(config, n_embd, n_head))
    vocabulary, notes = read_vocabulary(folder, n_vocab, "gpt-2", "NFC")
    weights = _weights(folder, n_vocab, n_embd, n_layer)
    header = struct.pack(
        "<8i",
        n_vocab,
        request.context(config.count("max_position_embeddings", 2048)),
        n_embd,
        n_head,
        n_layer,
        n_rot,
        config.flag("use_parallel_residual", True),
        legacy_file_type(request.weight_type),
    )
    tensors = encoded(weights, request.weight_type)
    return Layout("gpt_neox", ggml_writer.parts(header, vocabulary.tokens, tensors), notes)


def _rotated(config: Config, width: int) -> int:
    """How many elements of each head carry the position."""
    theta, part = rotary(config, "rotary_emb_base")
    if theta != 10000:
        config.fail(f"the base of its rotary positions is {theta:g}; this layout fixes it at 10000")
    n_rot = int(width * (config.number("rotary_pct", 0.25) if part is None else part))
    if n_rot < 2 or n_rot % 2 or n_rot > width:
        config.fail(f"{n_rot} of {width} elements of a head cannot carry rotary positions")
    return n_rot


def _weights(folder: ModelFolder, n_vocab: int, n_embd: int, n_layer: int) -> dict[str, Weight]:
    """All weights by their names, which are the same in the file; queries, keys, values by head."""
    take = folder.weights.take
    embedding = take("gpt_neox.embed_in.weight", (n_vocab, n_embd))
    head = folder.head(embedding, _HEADS, tied_by_default=False)
    found = {"gpt_neox.embed_in.weight": embedding, _HEADS[0]: head or embedding}
    for layer in range(n_layer):
        start = f"gpt_neox.layers.{layer}"
        for name, n_out, n_in in (
            ("attention.query_key_value", 3 * n_embd, n_embd),
            ("attention.dense", n_embd, n_embd),
            ("mlp.dense_h_to_4h", 4 * n_embd, n_embd),
            ("mlp.dense_4h_to_h", n_embd, 4 * n_embd),
        ):
            found[f"{start}.{name}.weight"] = take(f"{start}.{name}.weight", (n_out, n_in))
            found[f"{start}.{name}.bias"] = take(f"{start}.{name}.bias", (n_out,))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            for kind in ("weight", "bias"):
                found[f"{start}.{norm}.{kind}"] = take(f"{start}.{norm}.{kind}", (n_embd,))
    for kind in ("weight", "bias"):
        name = f"gpt_neox.final_layer_norm.{kind}"
        found[name] = take(name, (n_embd,))
    folder.weights.finish()
    return found
