"""The file layouts of ggml's examples, which have neither a version nor a name of their model.

Sources: ``llms/*.cc`` of ctransformers 0.2.27. A file begins with the magic number, then the header
fields, the vocabulary (a length and the bytes of each word) and the tensors, without padding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shared.ggml_types import F32
from shared.model_file import Family

Shapes = dict[str, tuple[tuple[int, ...], int]]
"""Per name of a tensor: its shape, contiguous dimension first, and its type."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is needed to check a file of a family that the engine serves.

    Attributes:
        family: the architecture.
        shapes: gives the tensors for a header and the type of the big matrices.
        width: name of the header field with the model's width, and so on for the next ones.
    """

    family: Family
    shapes: Callable[[Mapping[str, int], int], Shapes]
    width: str = "n_embd"
    context: str = "n_ctx"
    heads: str = "n_head"
    layers: str = "n_layer"


@dataclass(frozen=True, slots=True)
class Layout:
    """How one family's files look.

    Attributes:
        label: the model's name, for messages.
        fields: names of the header fields in order; all are 32-bit integers but those of
            `FLOAT_FIELDS`.
        n_vocab_again: the number of words is repeated before the vocabulary.
        scored: a 32-bit float follows each word.
        first_tensors: how the name of the first tensor may begin.
        served: None where files of this layout are known, but not served.
    """

    label: str
    fields: tuple[str, ...]
    n_vocab_again: bool
    first_tensors: tuple[str, ...]
    scored: bool = False
    served: Served | None = None


FLOAT_FIELDS = frozenset({"alibi_bias_max", "clip_qkv"})


def _starcoder(header: Mapping[str, int], wtype: int) -> Shapes:
    d, n_vocab, n_ctx = header["n_embd"], header["n_vocab"], header["n_ctx"]
    shapes: Shapes = {
        "model/ln_f/g": ((d,), F32),
        "model/ln_f/b": ((d,), F32),
        "model/wte": ((d, n_vocab), wtype),
        "model/wpe": ((d, n_ctx), F32),
        "model/lm_head": ((d, n_vocab), wtype),
    }
    for layer in range(header["n_layer"]):
        shapes |= {
            f"model/h{layer}/{name}": shape
            for name, shape in (
                ("ln_1/g", ((d,), F32)),
                ("ln_1/b", ((d,), F32)),
                ("ln_2/g", ((d,), F32)),
                ("ln_2/b", ((d,), F32)),
                ("attn/c_attn/w", ((d, 3 * d), wtype)),
                ("attn/c_attn/b", ((3 * d,), F32)),
                ("attn/c_proj/w", ((d, d), wtype)),
                ("attn/c_proj/b", ((d,), F32)),
                ("mlp/c_fc/w", ((d, 4 * d), wtype)),
                ("mlp/c_fc/b", ((4 * d,), F32)),
                ("mlp/c_proj/w", ((4 * d, d), wtype)),
                ("mlp/c_proj/b", ((d,), F32)),
            )
        }
    return shapes


def _mpt(header: Mapping[str, int], wtype: int) -> Shapes:
    d, n_vocab = header["d_model"], header["n_vocab"]
    shapes: Shapes = {
        "transformer.wte.weight": ((d, n_vocab), wtype),
        "transformer.norm_f.weight": ((d,), F32),
    }
    for layer in range(header["n_layers"]):
        shapes |= {
            f"transformer.blocks.{layer}.{name}.weight": shape
            for name, shape in (
                ("norm_1", ((d,), F32)),
                ("attn.Wqkv", ((d, 3 * d), wtype)),
                ("attn.out_proj", ((d, d), wtype)),
                ("norm_2", ((d,), F32)),
                ("ffn.up_proj", ((d, 4 * d), wtype)),
                ("ffn.down_proj", ((4 * d, d), wtype)),
            )
        }
    return shapes


def _gpt_neox(header: Mapping[str, int], wtype: int) -> Shapes:
    d, n_vocab = header["n_embd"], header["n_vocab"]
    shapes: Shapes = {
        "gpt_neox.embed_in.weight": ((d, n_vocab), wtype),
        "gpt_neox.final_layer_norm.weight": ((d,), F32),
        "gpt_neox.final_layer_norm.bias": ((d,), F32),
        "embed_out.weight": ((d, n_vocab), wtype),
    }
    for layer in range(header["n_layer"]):
        for name, weight in (
            ("input_layernorm", ((d,), F32)),
            ("post_attention_layernorm", ((d,), F32)),
            ("attention.query_key_value", ((d, 3 * d), wtype)),
            ("attention.dense", ((d, d), wtype)),
            ("mlp.dense_h_to_4h", ((d, 4 * d), wtype)),
            ("mlp.dense_4h_to_h", ((4 * d, d), wtype)),
        ):
            shapes[f"gpt_neox.layers.{layer}.{name}.weight"] = weight
            shapes[f"gpt_neox.layers.{layer}.{name}.bias"] = (weight[0][-1:], F32)
    return shapes


OPTIONAL_TENSORS: Mapping[str, str] = MappingProxyType({"model/lm_head": "model/wte"})
"""Tensors that the engine copies from another where a file has them not."""

LAYOUTS = (
    Layout(
        "StarCoder or GPT-2",
        ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "ftype"),
        n_vocab_again=True,
        first_tensors=("model/",),
        served=Served(Family.STARCODER, _starcoder),
    ),
    Layout(
        "MPT",
        ("d_model", "max_seq_len", "n_heads", "n_layers", "n_vocab", "alibi_bias_max", "clip_qkv",
         "ftype"),
        n_vocab_again=False,
        first_tensors=("transformer.",),
        served=Served(Family.MPT, _mpt, "d_model", "max_seq_len", "n_heads", "n_layers"),
    ),
    Layout(
        "GPT-NeoX",
        ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "par_res", "ftype"),
        n_vocab_again=False,
        first_tensors=("gpt_neox.", "embed_out."),
        served=Served(Family.GPT_NEOX, _gpt_neox),
    ),
    Layout(
        "GPT-J",
        ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "ftype"),
        n_vocab_again=True,
        first_tensors=("transformer.", "lm_head."),
    ),
    Layout(
        "Replit",
        ("d_model", "max_seq_len", "n_heads", "n_layers", "n_vocab", "ftype"),
        n_vocab_again=False,
        first_tensors=("transformer.",),
        scored=True,
    ),
    Layout(
        "LLaMA in the oldest GGML format",
        ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype"),
        n_vocab_again=False,
        first_tensors=("tok_embeddings.", "norm.", "output.", "layers."),
    ),
    Layout(
        "Falcon in the oldest GGML format",
        ("n_vocab", "n_embd", "n_head", "n_head_kv", "n_layer", "falcon_type", "ftype"),
        n_vocab_again=False,
        first_tensors=("transformer.", "lm_head."),
    ),
)  # fmt: skip
