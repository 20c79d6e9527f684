"""What lies in the files of each family: header fields of legacy files, and all formats' tensors.

Sources: ``llms/*.cc``, ``ggml/libfalcon.cpp`` and ``ggml/llama.cpp`` (``LLM_ARCH_LLAMA``,
``LLM_ARCH_FALCON``) of ctransformers 0.2.27.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.model.description import Dimensions, Family

Table = Mapping[str, str]
"""Per tensor: the names of its dimensions, contiguous first. A name with ``{}`` is one of each
layer's, and ``d`` is the model's width."""
Shapes = Mapping[str, tuple[int, ...]]

STARCODER: Table = {
    "model/ln_f/g": "d", "model/ln_f/b": "d", "model/wte": "d vocab", "model/wpe": "d ctx",
    "model/lm_head": "d vocab",
    "model/h{}/ln_1/g": "d", "model/h{}/ln_1/b": "d",
    "model/h{}/ln_2/g": "d", "model/h{}/ln_2/b": "d",
    "model/h{}/attn/c_attn/w": "d qkv", "model/h{}/attn/c_attn/b": "qkv",
    "model/h{}/attn/c_proj/w": "d d", "model/h{}/attn/c_proj/b": "d",
    "model/h{}/mlp/c_fc/w": "d ff", "model/h{}/mlp/c_fc/b": "ff",
    "model/h{}/mlp/c_proj/w": "ff d", "model/h{}/mlp/c_proj/b": "d",
}  # fmt: skip
MPT: Table = {
    "transformer.wte.weight": "d vocab", "transformer.norm_f.weight": "d",
    "transformer.blocks.{}.norm_1.weight": "d",
    "transformer.blocks.{}.attn.Wqkv.weight": "d qkv",
    "transformer.blocks.{}.attn.out_proj.weight": "d d",
    "transformer.blocks.{}.norm_2.weight": "d",
    "transformer.blocks.{}.ffn.up_proj.weight": "d ff",
    "transformer.blocks.{}.ffn.down_proj.weight": "ff d",
}  # fmt: skip
GPT_NEOX: Table = {
    "gpt_neox.embed_in.weight": "d vocab", "embed_out.weight": "d vocab",
    "gpt_neox.final_layer_norm.weight": "d", "gpt_neox.final_layer_norm.bias": "d",
    **{
        f"gpt_neox.layers.{{}}.{name}.{kind}": shape if kind == "weight" else shape.split()[-1]
        for name, shape in (
            ("input_layernorm", "d"), ("post_attention_layernorm", "d"),
            ("attention.query_key_value", "d qkv"), ("attention.dense", "d d"),
            ("mlp.dense_h_to_4h", "d ff"), ("mlp.dense_4h_to_h", "ff d"),
        )
        for kind in ("weight", "bias")
    },
}  # fmt: skip
LLAMA: Table = {
    "token_embd.weight": "d vocab", "output_norm.weight": "d", "output.weight": "d vocab",  # nosec B105
    "blk.{}.attn_norm.weight": "d", "blk.{}.attn_q.weight": "d d", "blk.{}.attn_k.weight": "d kv",
    "blk.{}.attn_v.weight": "d kv", "blk.{}.attn_output.weight": "d d",
    "blk.{}.ffn_norm.weight": "d", "blk.{}.ffn_gate.weight": "d ff",
    "blk.{}.ffn_down.weight": "ff d", "blk.{}.ffn_up.weight": "d ff",
}  # fmt: skip
_FALCON: Table = {
    "token_embd.weight": "d vocab", "output_norm.weight": "d", "output_norm.bias": "d",  # nosec B105
    "output.weight": "d vocab", "blk.{}.attn_norm.weight": "d", "blk.{}.attn_norm.bias": "d",
    "blk.{}.attn_qkv.weight": "d qkv", "blk.{}.attn_output.weight": "d d",
    "blk.{}.ffn_up.weight": "d ff", "blk.{}.ffn_down.weight": "ff d",
}  # fmt: skip
_GGCC: Table = {
    "transformer.word_embeddings.weight": "d vocab", "lm_head.weight": "d vocab",
    "transformer.ln_f.weight": "d", "transformer.ln_f.bias": "d",
    "transformer.h.{}.self_attention.query_key_value.weight": "d qkv",
    "transformer.h.{}.self_attention.dense.weight": "d d",
    "transformer.h.{}.mlp.dense_h_to_4h.weight": "d ff",
    "transformer.h.{}.mlp.dense_4h_to_h.weight": "ff d",
}  # fmt: skip


def falcon(is_40b: bool) -> Table:
    """The larger Falcon models have a second norm in each layer."""
    second = ("blk.{}.attn_norm_2.weight", "blk.{}.attn_norm_2.bias")
    return {**_FALCON, **dict.fromkeys(second if is_40b else (), "d")}


def ggcc(is_40b: bool) -> Table:
    norms = ("ln_mlp", "ln_attn") if is_40b else ("input_layernorm",)
    names = (f"transformer.h.{{}}.{norm}.{part}" for norm in norms for part in ("weight", "bias"))
    return {**_GGCC, **dict.fromkeys(names, "d")}


def shapes_of(table: Table, size: Dimensions) -> Shapes:
    """The shape of each tensor of a model."""
    numbers = {
        "d": size.n_embd,
        "vocab": size.n_vocab,
        "ctx": size.n_ctx_train,
        "ff": size.n_ff,
        "kv": size.n_embd_kv,
        "qkv": size.n_embd + 2 * size.n_embd_kv,
    }
    shapes: dict[str, tuple[int, ...]] = {}
    of_layers: dict[str, tuple[int, ...]] = {}
    for name, dimensions in table.items():
        shape = tuple(numbers[dimension] for dimension in dimensions.split())
        (of_layers if "{}" in name else shapes)[name] = shape
    for layer in range(size.n_layer):
        shapes |= {name.format(layer): shape for name, shape in of_layers.items()}
    return shapes


FLOAT_FIELDS = frozenset({"alibi_bias_max", "clip_qkv"})


@dataclass(frozen=True, slots=True)
class Layout:
    """How one family's files look."""

    label: str  #: the model's name, for messages
    fields: str  #: names of the header's fields; 32-bit integers but for `FLOAT_FIELDS`
    first_tensors: tuple[str, ...]  #: how the name of the first tensor may begin
    n_vocab_again: bool = False  #: the number of words is repeated before the vocabulary
    scored: bool = False  #: a 32-bit float follows each word
    family: Family | None = None  #: None where such files are known, but not served
    tensors: Table | None = None


LAYOUTS = (
    Layout(
        "StarCoder or GPT-2", "n_vocab n_ctx n_embd n_head n_layer ftype", ("model/",),
        n_vocab_again=True, family=Family.STARCODER, tensors=STARCODER,
    ),
    Layout(
        "MPT", "n_embd n_ctx n_head n_layer n_vocab alibi_bias_max clip_qkv ftype",
        ("transformer.",), family=Family.MPT, tensors=MPT,
    ),
    Layout(
        "GPT-NeoX", "n_vocab n_ctx n_embd n_head n_layer n_rot par_res ftype",
        ("gpt_neox.", "embed_out."), family=Family.GPT_NEOX, tensors=GPT_NEOX,
    ),
    Layout(
        "GPT-J", "n_vocab n_ctx n_embd n_head n_layer n_rot ftype", ("transformer.", "lm_head."),
        n_vocab_again=True,
    ),
    Layout("Replit", "n_embd n_ctx n_head n_layer n_vocab ftype", ("transformer.",), scored=True),
    Layout(
        "LLaMA in the oldest GGML format", "n_vocab n_embd n_mult n_head n_layer n_rot ftype",
        ("tok_embeddings.", "norm.", "output.", "layers."),
    ),
    Layout(
        "Falcon in the oldest GGML format",
        "n_vocab n_embd n_head n_head_kv n_layer falcon_type ftype", ("transformer.", "lm_head."),
    ),
)  # fmt: skip
