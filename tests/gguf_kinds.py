"""Tiny GGUF files of some architectures that llama.cpp alone evaluates, with random weights."""

import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    GGUFDraft,
    Tensor,
    random_q4_1,
    tiny_llama,
)

_N, _HEAD, _FF, _LAYERS, _EXPERTS, _INNER, _STATE, _RANK = 32, 8, 64, 2, 4, 64, 16, 32
_KV = 2 * _HEAD
_FLOATS = ("position", "token_types", "ssm_a", "conv")
_Shapes = dict[str, tuple[int, ...]]
_ATTENTION: _Shapes = {
    "attn_norm.weight": (_N,), "attn_q.weight": (_N, _N), "attn_k.weight": (_N, _KV),
    "attn_v.weight": (_N, _KV), "attn_output.weight": (_N, _N), "ffn_norm.weight": (_N,),
}  # fmt: skip
_FEED: _Shapes = {"ffn_gate.weight": (_N, _FF), "ffn_up.weight": (_N, _FF),
                  "ffn_down.weight": (_FF, _N)}  # fmt: skip
_HEAD_NORMS: _Shapes = {"attn_q_norm.weight": (_HEAD,), "attn_k_norm.weight": (_HEAD,)}
_MOE: _Shapes = {
    "ffn_gate_inp.weight": (_N, _EXPERTS), "ffn_gate_exps.weight": (_N, _FF, _EXPERTS),
    "ffn_up_exps.weight": (_N, _FF, _EXPERTS), "ffn_down_exps.weight": (_FF, _N, _EXPERTS),
}  # fmt: skip
_LAYERS_OF: Mapping[str, _Shapes] = {
    "qwen3": {**_ATTENTION, **_FEED, **_HEAD_NORMS},
    "gemma3": {**_ATTENTION, **_FEED, **_HEAD_NORMS, "post_attention_norm.weight": (_N,),
               "post_ffw_norm.weight": (_N,)},
    "phi3": {"attn_norm.weight": (_N,), "attn_qkv.weight": (_N, _N + 2 * _KV),
             "attn_output.weight": (_N, _N), "ffn_norm.weight": (_N,),
             "ffn_up.weight": (_N, 2 * _FF), "ffn_down.weight": (_FF, _N)},
    "qwen3moe": {**_ATTENTION, **_HEAD_NORMS, **_MOE},
    "mamba": {
        "attn_norm.weight": (_N,), "ssm_in.weight": (_N, 2 * _INNER),
        "ssm_conv1d.weight": (4, _INNER), "ssm_conv1d.bias": (_INNER,),
        "ssm_x.weight": (_INNER, _RANK + 2 * _STATE), "ssm_dt.weight": (_RANK, _INNER),
        "ssm_dt.bias": (_INNER,), "ssm_a": (_STATE, _INNER), "ssm_d": (_INNER,),
        "ssm_out.weight": (_INNER, _N),
    },
    "bert": {
        **{f"attn_{part}.weight": (_N, _N) for part in ("q", "k", "v", "output")},
        **{f"attn_{part}.bias": (_N,) for part in ("q", "k", "v", "output")},
        "attn_output_norm.weight": (_N,), "attn_output_norm.bias": (_N,),
        "ffn_up.weight": (_N, _FF), "ffn_up.bias": (_FF,), "ffn_down.weight": (_FF, _N),
        "ffn_down.bias": (_N,), "layer_output_norm.weight": (_N,), "layer_output_norm.bias": (_N,),
    },
}  # fmt: skip
_NUMBERS: Mapping[str, dict[str, tuple[Any, ...]]] = {
    "gemma3": {"attention.sliding_window": (U32, 16)},
    "phi3": {"rope.dimension_count": (U32, _HEAD)},
    "qwen3moe": {"expert_count": (U32, _EXPERTS), "expert_used_count": (U32, 2),
                 "expert_feed_forward_length": (U32, _FF)},
    "mamba": {"ssm.conv_kernel": (U32, 4), "ssm.inner_size": (U32, _INNER),
              "ssm.state_size": (U32, _STATE), "ssm.time_step_rank": (U32, _RANK),
              "attention.head_count": (U32, 0), "attention.head_count_kv": (U32, 0),
              "feed_forward_length": (U32, 0)},
    "bert": {"attention.causal": (BOOL, False), "pooling_type": (U32, 1),
             "attention.layer_norm_epsilon": (F32, 1e-5), "attention.head_count_kv": (U32, 4)},
}  # fmt: skip
GENERATING = ("qwen3", "gemma3", "phi3", "qwen3moe", "mamba")


def tiny(architecture: str, seed: int = 1) -> GGUFDraft:
    """A model of a few layers, with the vocabulary of `tiny_llama`; BERT's has words of its own."""
    source = random.Random(seed)
    draft = tiny_llama("letters", n_layer=0)
    draft.metadata = {
        key.replace("llama.", f"{architecture}.", 1): value for key, value in draft.metadata.items()
    }
    draft.metadata["general.architecture"] = (STRING, architecture)
    more = {"block_count": (U32, _LAYERS), **_NUMBERS.get(architecture, {})}
    draft.metadata.update({f"{architecture}.{key}": value for key, value in more.items()})
    if architecture == "bert":
        draft.metadata.update(_words())
        del draft.metadata["tokenizer.chat_template"]
    n_vocab = len(draft.metadata["tokenizer.ggml.tokens"][2])
    shapes = {"token_embd.weight": (_N, n_vocab), **_outside(architecture)}
    for layer in range(_LAYERS):
        shapes |= {f"blk.{layer}.{name}": s for name, s in _LAYERS_OF[architecture].items()}
    draft.tensors = {name: _tensor(source, name, shape) for name, shape in shapes.items()}
    return draft


def _outside(architecture: str) -> _Shapes:
    if architecture != "bert":
        return {"output_norm.weight": (_N,)}
    return {"position_embd.weight": (_N, 512), "token_types.weight": (_N, 2),
            "token_embd_norm.weight": (_N,), "token_embd_norm.bias": (_N,)}  # fmt: skip


def _tensor(source: random.Random, name: str, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if len(shape) > 1 and not any(part in name for part in _FLOATS):
        # Experts are to be chosen clearly, since another one is another text.
        return random_q4_1(source, shape, 0.6 if "gate_inp" in name else 0.06)
    if name.endswith("norm.weight"):
        values = [1.0] * count
    elif name.endswith("ssm_a"):  # of a stable system
        values = [-1.0 - index % 4 for index in range(count)]
    else:
        values = [source.gauss(0, 0.3) for _ in range(count)]
    return Tensor(shape, struct.pack(f"<{count}f", *values))


def _words() -> dict[str, tuple[Any, ...]]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁{word}" for word in
              ("the", "cat", "sat", "on", "a", "mat", "dog", "hello", "world"))]  # fmt: skip
    return {
        "tokenizer.ggml.token_type_count": (U32, 2),
        "tokenizer.ggml.model": (STRING, "bert"),
        "tokenizer.ggml.tokens": (ARRAY, STRING, tokens),
        "tokenizer.ggml.token_type": (ARRAY, I32, [3, 3, 3, 3] + [1] * (len(tokens) - 4)),
        "tokenizer.ggml.bos_token_id": (U32, 2),
        "tokenizer.ggml.eos_token_id": (U32, 3),
        "tokenizer.ggml.seperator_token_id": (U32, 3),
        "tokenizer.ggml.unknown_token_id": (U32, 1),
        "tokenizer.ggml.padding_token_id": (U32, 0),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
    }


def write_split(draft: GGUFDraft, folder: Path, n_parts: int, stem: str = "m") -> list[Path]:
    """Write a model in several files: the metadata in the first, the tensors in all."""
    names = list(draft.tensors)
    paths = []
    for number in range(n_parts):
        part = GGUFDraft(dict(draft.metadata) if number == 0 else {})
        part.metadata |= {"split.no": (U16, number), "split.count": (U16, n_parts),
                          "split.tensors.count": (I32, len(names))}  # fmt: skip
        part.tensors = {name: draft.tensors[name] for name in names[number::n_parts]}
        path = folder / f"{stem}-{number + 1:05}-of-{n_parts:05}.gguf"
        paths.append(part.write(path))
    return paths
