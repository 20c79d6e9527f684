"""What cannot be converted, and what is said about it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ModelFileError, UsageError
from tests.unit.worker.convert.folders import Tensors, edit_json, edit_tensors, folder
from worker.convert.conversion import convert
from worker.convert.layout import Format
from worker.convert.tensors import WeightType

FALCON = "falcon-7b"
STARCODER = "starcoder-mqa"
MPT = "mpt-alibi8"
NEOX = "neox-parallel"
LLAMA = "llama-gqa"

# Variant, changes of config.json, and what the message has to say.
SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    (FALCON, {"model_type": "bloom"}, "model_type is 'bloom'; known are: falcon, gpt2"),
    (FALCON, {"model_type": None}, "model_type is None; known are"),
    (FALCON, {"quantization_config": {"bits": 4}}, "quantised already"),
    (FALCON, {"alibi": True}, "alibi is True; the engine has only Falcons with rotary"),
    (FALCON, {"bias": True}, "bias is True; the engine has only Falcons without biases"),
    (FALCON, {"parallel_attn": False}, "parallel_attn is False"),
    (FALCON, {"multi_query": False}, "multi_query is False"),
    (FALCON, {"activation": "relu"}, "activation is 'relu'; the engine has only GELU"),
    (FALCON, {"num_hidden_layers": 0}, "num_hidden_layers should be a positive integer: 0"),
    (FALCON, {"num_hidden_layers": True}, "num_hidden_layers should be a positive integer: True"),
    (FALCON, {"hidden_size": None}, "hidden_size should be a positive integer: missing"),
    (FALCON, {"num_attention_heads": 5}, "5 attention heads do not divide a width of 64"),
    (FALCON, {"rope_parameters.rope_theta": 5e5}, "rope_theta is 500000; the ggcc layout"),
    (FALCON, {"rope_parameters.rope_type": "yarn"}, "needs 'yarn' scaling of positions"),
    (FALCON, {"rope_parameters.partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; the"),
    (FALCON, {"max_position_embeddings": 0}, "max_position_embeddings should be a positive"),
    (FALCON, {"rope_parameters": 7}, "rope_parameters is 7, not a JSON object"),
    (FALCON, {"ffn_hidden_size": 128}, "ffn_hidden_size is 128; this layout fixes it"),
    (FALCON, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06; the engine's code"),
    (FALCON, {"layer_norm_epsilon": "small"}, "layer_norm_epsilon should be a number: 'small'"),
    (FALCON, {"num_hidden_layers": 60}, "with 60 blocks the engine takes a ggcc file for"),
    (FALCON, {"tie_word_embeddings": 1}, "tie_word_embeddings should be true or false: 1"),
    ("falcon-40b", {"num_hidden_layers": 32}, "with 32 blocks the engine takes a ggcc file for"),
    ("falcon-40b", {"num_kv_heads": 3}, "3 key/value heads do not divide 4 heads"),
    (STARCODER, {"n_inner": 128}, "n_inner is 128; this layout fixes it at 4 times the width, 256"),
    (STARCODER, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
    (STARCODER, {"activation_function": "relu"}, "activation_function is 'relu'"),
    (STARCODER, {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("gpt2", {"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon is 1e-12"),
    (NEOX, {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
    (NEOX, {"hidden_act": "silu"}, "hidden_act is 'silu'"),
    (NEOX, {"attention_bias": False}, "attention_bias is False"),
    (NEOX, {"intermediate_size": 128}, "intermediate_size is 128"),
    (NEOX, {"rope_parameters.rope_theta": 1e6}, "rotary positions is 1e+06; this layout"),
    (NEOX, {"rope_parameters": None, "rotary_emb_base": 500}, "rotary positions is 500"),
    (NEOX, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "needs 'linear' scaling"),
    (NEOX, {"rope_parameters.partial_rotary_factor": 0.2}, "3 of 16 elements of a head"),
    (MPT, {"attn_config.alibi": False}, "alibi is False; the engine has only MPTs with ALiBi"),
    (MPT, {"attn_config.qk_ln": True}, "qk_ln is True"),
    (MPT, {"attn_config.prefix_lm": True}, "prefix_lm is True"),
    (MPT, {"attn_config.attn_uses_sequence_id": True}, "attn_uses_sequence_id is True"),
    (MPT, {"attn_config.attn_type": "multiquery_attention"}, "attn_type is 'multiquery_attention'"),
    (MPT, {"attn_config.rope": True}, "rope is True; the engine has only MPTs with ALiBi"),
    (MPT, {"attn_config.sliding_window_size": 64}, "sliding_window_size is 64"),
    (MPT, {"attn_config.softmax_scale": 1.0}, "softmax_scale is 1; the engine divides"),
    (MPT, {"attn_config.clip_qkv": -1}, "clip_qkv is negative"),
    (MPT, {"no_bias": False}, "no_bias is False"),
    (MPT, {"expansion_ratio": 2}, "expansion_ratio is 2; this layout fixes it at 4"),
    (MPT, {"logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model'"),
    (MPT, {"norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'"),
    (MPT, {"ffn_config": {"ffn_type": "mptglu"}}, "ffn_type is 'mptglu'"),
    (MPT, {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    (MPT, {"embedding_fraction": 0.5}, "embedding_fraction is 0.5"),
    (MPT, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
    (LLAMA, {"rope_parameters.rope_type": "llama3"}, "needs 'llama3' scaling of positions"),
    (LLAMA, {"rope_scaling": {"type": "dynamic"}}, "needs 'dynamic' scaling of positions"),
    (LLAMA, {"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25; the engine rotates"),
    (LLAMA, {"attention_bias": True}, "attention_bias is True"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias is True"),
    (LLAMA, {"head_dim": 16}, "head_dim is 16; the engine wants the heads to share"),
    (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (LLAMA, {"num_key_value_heads": 3}, "3 key/value heads do not divide 8 heads"),
    (LLAMA, {"eos_token_id": 10**6}, "eos_token_id is 1000000, which is no token"),
]  # fmt: skip


def suffix(name: str) -> str:
    return ".gguf" if name == LLAMA else ".bin"


def refused(model: Path, target: Path, message: str, **more: Any) -> None:
    before = sorted(target.parent.iterdir())
    with pytest.raises(UsageError, match=re.escape(message)):
        convert(model, target, more.pop("weight_type", WeightType.F16), **more)
    assert sorted(target.parent.iterdir()) == before


@pytest.mark.parametrize(("name", "changes", "message"), SETTINGS)
def test_settings(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = folder(name, tmp_path)
    edit_json(model / "config.json", changes)
    if "eos_token_id" in changes:
        (model / "tokenizer_config.json").unlink()
    refused(model, tmp_path / f"m{suffix(name)}", message)


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, shape: tuple[int, ...], value: float = 0.0) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: np.full(shape, value, np.float32)})


TENSORS: list[tuple[str, Callable[[Tensors], None], str]] = [
    (FALCON, drop("transformer.h.1.mlp.dense_4h_to_h.weight"),
     "tensor transformer.h.1.mlp.dense_4h_to_h.weight is missing"),
    (FALCON, drop("lm_head.weight"), "tensor lm_head.weight is missing"),
    (FALCON, put("transformer.ln_f.bias", (63,)),
     "tensor transformer.ln_f.bias has the shape (63,) where config.json implies (64,)"),
    (FALCON, put("transformer.h.0.ln_mlp.weight", (64,)),
     "the engine has no use for tensor transformer.h.0.ln_mlp.weight;"),
    (FALCON, put("transformer.ln_f.bias", (64,), np.inf),
     "transformer.ln_f.bias: holds a value that is not finite"),
    (STARCODER, put("transformer.h.0.attn.c_attn.weight", (192, 64)),
     "has the shape (192, 64) where config.json implies (96, 64)"),
    (MPT, put("transformer.blocks.0.ffn.up_proj.bias", (256,)), "no use for tensor"),
    (MPT, put("transformer.blocks.0.ffn.up_proj.weight", (256, 64), 1e5),
     "transformer.blocks.0.ffn.up_proj.weight: holds a value that is not finite, or too large for"),
    (LLAMA, put("model.layers.0.self_attn.q_proj.weight", (64, 64), np.nan), "is not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), TENSORS)
def test_tensors(
    name: str, change: Callable[[Tensors], None], message: str, tmp_path: Path
) -> None:
    model = folder(name, tmp_path)
    edit_tensors(model, change)
    refused(model, tmp_path / f"m{suffix(name)}", message)


def test_values_that_only_wider_types_hold(tmp_path: Path) -> None:
    model = folder(MPT, tmp_path)
    edit_tensors(model, put("transformer.blocks.0.ffn.up_proj.weight", (256, 64), 1e5))
    convert(model, tmp_path / "m.bin", WeightType.F32)
    convert(model, tmp_path / "m.bin", WeightType.Q8_0)


@pytest.mark.parametrize("weight_type", [WeightType.Q4_0, WeightType.Q8_0])
def test_widths_that_cannot_be_quantised(weight_type: WeightType, tmp_path: Path) -> None:
    model = folder(LLAMA, tmp_path)
    edit_json(model / "config.json", {"intermediate_size": 100})

    def narrow(tensors: Tensors) -> None:
        for name in tensors:
            if "down_proj" in name:
                tensors[name] = tensors[name][:, :100]
            elif "mlp" in name:
                tensors[name] = tensors[name][:100]

    edit_tensors(model, narrow)
    message = "mlp.down_proj.weight: its rows of 100 elements cannot be cut into blocks of 32"
    refused(model, tmp_path / "m.gguf", message, weight_type=weight_type)
    convert(model, tmp_path / "m.gguf", WeightType.F16)


@pytest.mark.parametrize("name", ["gpt2", STARCODER, MPT, NEOX, LLAMA, FALCON])
def test_contexts_that_are_longer_than_the_models(name: str, tmp_path: Path) -> None:
    model = folder(name, tmp_path)
    target = tmp_path / f"m{'.gguf' if name == FALCON else suffix(name)}"
    message = "--context-length: 257 is more than the model's own 256"
    refused(model, target, message, n_ctx=257)
    convert(model, target, WeightType.F16, n_ctx=256)


@pytest.mark.parametrize("n_ctx", [128, 2048, 4096])
def test_the_ggcc_layout_has_no_context_length(n_ctx: int, tmp_path: Path) -> None:
    message = (
        "--context-length: the ggcc layout has no context length; take GGUF, or set "
        "CONTEXT_LENGTH when serving"
    )
    refused(folder(FALCON, tmp_path), tmp_path / "m.bin", message, n_ctx=n_ctx)


@pytest.mark.parametrize(
    ("name", "target", "wanted", "message"),
    [
        ("gpt2", "m.gguf", None, "m.gguf: a file in the ggml layout should end in .bin"),
        (LLAMA, "m.bin", None, "m.bin: a file in the gguf layout should end in .gguf"),
        (LLAMA, "m.bin", Format.GGML, "--format ggml: the engine reads this family as gguf"),
        (FALCON, "m.bin", Format.GGML, "the engine reads this family as ggcc and gguf"),
        (FALCON, "m.gguf", Format.GGCC, "m.gguf: a file in the ggcc layout should end in .bin"),
        ("gpt2", "m.bin", Format.GGUF, "--format gguf: the engine reads this family as ggml"),
    ],
)
def test_formats(
    name: str, target: str, wanted: Format | None, message: str, tmp_path: Path
) -> None:
    refused(folder(name, tmp_path), tmp_path / target, message, wanted=wanted)


def test_the_model_itself_is_not_replaced(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    refused(model, model / "config.json", "would replace a part of the model itself")


def test_what_the_inspector_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(path: Path) -> None:
        raise ModelFileError(f"{path}: too deep")

    monkeypatch.setattr("shared.model.inspect.inspect", inspect)
    target = tmp_path / "m.bin"
    refused(
        folder("gpt2", tmp_path),
        target,
        f"{target}: the engine could not serve this model: too deep",
    )
