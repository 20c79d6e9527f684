"""Makes the model files of this folder out of its Hugging Face folders, in 16-bit floats."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gguf_files import ARRAY, BOOL, F32, I32, STRING, U32, GGUFDraft, Tensor
from tests.legacy_files import GGCC_MAGIC, LegacyDraft
from tests.models.source import Model, Weights

_FALCON_NAMES = {
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
_LLAMA_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PRE_TOKENIZERS = {"falcon": "falcon", "llama": "llama-bpe"}
_ALL = ("weight", "bias")


def _tensors(weights: Mapping[str, NDArray[Any]], floats: str = "") -> dict[str, Tensor]:
    """Matrices in 16 bits but for that of this name, vectors in 32."""
    tensors = {}
    for name, values in weights.items():
        is_half = values.ndim > 1 and name != floats
        raw = values.astype("<f2" if is_half else "<f4").tobytes()
        tensors[name] = Tensor(values.shape[::-1], raw, int(is_half))
    return tensors


def _falcon_weights(model: Model) -> tuple[Weights, int, bool]:
    """Tensors by their own names, heads of keys and values, and whether layers have two norms."""
    config = model.config
    is_new = config["new_decoder_architecture"]
    n_head_kv = config["num_kv_heads"] if is_new else 1
    two_norms = is_new and config.get("num_ln_in_parallel_attn") != 1
    norms = ("ln_mlp", "ln_attn") if two_norms else ("input_layernorm",)
    matrices = (
        "self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )  # fmt: skip
    names = [f"{norm}.{kind}" for norm in norms for kind in _ALL]
    found = {
        **model.take(["transformer.word_embeddings.weight"]),
        **model.of_layers("transformer.h", [*names, *(f"{name}.weight" for name in matrices)]),
        **model.take(f"transformer.ln_f.{kind}" for kind in _ALL),
    }
    # Checkpoints have the queries that share a key and a value, and these two, by groups; files
    # have all queries, all keys, all values.
    width = model.n_embd // model.n_head
    for name in found:
        if "query_key_value" in name:
            groups = found[name].reshape(n_head_kv, -1, width, model.n_embd)
            parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
            found[name] = np.concatenate([part.reshape(-1, model.n_embd) for part in parts])
    tied = found["transformer.word_embeddings.weight"]
    found["lm_head.weight"] = model.weights.get("lm_head.weight", tied)
    return found, n_head_kv, two_norms


def _ggcc(model: Model) -> LegacyDraft:
    weights, n_head_kv, two_norms = _falcon_weights(model)
    halves = [half for merge in model.merges for half in merge.split(b" ")]
    numbers = {
        "version": 10, "n_vocab": len(model.words), "n_embd": model.n_embd,
        "n_head": model.n_head, "n_head_kv": n_head_kv, "n_layer": model.n_layer,
        "falcon_type": 40 if two_norms else 7, "ftype": 1, "n_merges": len(model.merges),
    }  # fmt: skip
    between = struct.pack("<I", len(model.merges))
    between += b"".join(struct.pack("<I", len(half)) + half for half in halves)
    return LegacyDraft(
        dict(numbers),
        model.words,
        _tensors(weights),
        magic=GGCC_MAGIC,
        scored=True,
        between=between,
        alignment=32,
    )


def _falcon_gguf(model: Model) -> GGUFDraft:
    weights, n_head_kv, _ = _falcon_weights(model)
    numbers = {
        "tensor_data_layout": (STRING, "jploski"),
        "context_length": (U32, model.config.get("max_position_embeddings", 2048)),
        "embedding_length": (U32, model.n_embd),
        "feed_forward_length": (U32, 4 * model.n_embd),
        "block_count": (U32, model.n_layer),
        "attention.head_count": (U32, model.n_head),
        "attention.head_count_kv": (U32, n_head_kv),
        "attention.layer_norm_epsilon": (F32, model.config["layer_norm_epsilon"]),
        "rope.freq_base": (F32, model.config["rope_parameters"]["rope_theta"]),
    }
    return GGUFDraft(
        _metadata(model, numbers),
        _tensors({_falcon_name(name): values for name, values in weights.items()}),
    )


def _falcon_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("transformer.h."):
        return f"{_FALCON_NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_FALCON_NAMES[rest]}.{kind}"


def _llama(model: Model) -> GGUFDraft:
    config = model.config
    numbers = {
        "context_length": (U32, config["max_position_embeddings"]),
        "embedding_length": (U32, model.n_embd),
        "feed_forward_length": (U32, config["intermediate_size"]),
        "block_count": (U32, model.n_layer),
        "attention.head_count": (U32, model.n_head),
        "attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "rope.dimension_count": (U32, config["head_dim"]),
        "rope.freq_base": (F32, config["rope_parameters"]["rope_theta"]),
    }
    weights = {"token_embd.weight": model.weights["model.embed_tokens.weight"]}
    for layer in range(model.n_layer):
        for source, target in _LLAMA_NAMES.items():
            values = model.weights[f"model.layers.{layer}.{source}.weight"]
            if target in ("attn_q", "attn_k"):
                # The engine rotates neighbours; checkpoints have the first halves of pairs first.
                pairs = values.reshape(-1, 2, config["head_dim"] // 2, model.n_embd)
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            weights[f"blk.{layer}.{target}.weight"] = values
    weights["output_norm.weight"] = model.weights["model.norm.weight"]
    weights["output.weight"] = model.weights["lm_head.weight"]
    return GGUFDraft(_metadata(model, numbers), _tensors(weights))


def _metadata(model: Model, numbers: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    ids = {word: token for token, word in enumerate(model.words)}
    metadata: dict[str, tuple[Any, ...]] = {
        "general.architecture": (STRING, model.family),
        "general.name": (STRING, model.name),
        "general.file_type": (U32, 1),
        **{f"{model.family}.{key}": value for key, value in numbers.items()},
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, _PRE_TOKENIZERS[model.family]),
        "tokenizer.ggml.tokens": (ARRAY, STRING, model.words),
        "tokenizer.ggml.scores": (ARRAY, F32, [0.0] * len(model.words)),
        "tokenizer.ggml.token_type": (ARRAY, I32, [int(kind) for _, kind in model.vocabulary]),
        "tokenizer.ggml.merges": (ARRAY, STRING, model.merges),
        "ggml_fastapi.token_form": (STRING, "bytes"),
    }
    for role in ("bos", "eos"):
        token = ids[model.settings[f"{role}_token"].encode()]
        metadata[f"tokenizer.ggml.{role}_token_id"] = (U32, token)
    if model.family == "llama":
        metadata["tokenizer.ggml.add_bos_token"] = (BOOL, True)
        metadata["tokenizer.chat_template"] = (STRING, model.settings["chat_template"])
    return metadata


def _gpt2(model: Model) -> LegacyDraft:
    """GPT-2 or StarCoder, which share a layout."""
    layers = {"attn.c_attn": "attn/c_attn", "attn.c_proj": "attn/c_proj",
              "mlp.c_fc": "mlp/c_fc", "mlp.c_proj": "mlp/c_proj"}  # fmt: skip
    weights = {"model/wte": model.weights["transformer.wte.weight"]}
    if "lm_head.weight" in model.weights:
        weights["model/lm_head"] = model.weights["lm_head.weight"]
    for layer in range(model.n_layer):
        source, target = f"transformer.h.{layer}", f"model/h{layer}"
        for norm in ("ln_1", "ln_2"):
            for kind, short in zip(_ALL, "gb", strict=True):
                weights[f"{target}/{norm}/{short}"] = model.weights[f"{source}.{norm}.{kind}"]
        for name, file_name in layers.items():
            for kind, short in zip(_ALL, "wb", strict=True):
                values = model.weights[f"{source}.{name}.{kind}"]
                weights[f"{target}/{file_name}/{short}"] = _linear(model, name, values)
    for kind, short in zip(_ALL, "gb", strict=True):
        weights[f"model/ln_f/{short}"] = model.weights[f"transformer.ln_f.{kind}"]
    weights["model/wpe"] = model.weights["transformer.wpe.weight"]
    header = _header(model, "n_vocab n_ctx n_embd n_head n_layer ftype")
    tensors = _tensors(weights, floats="model/wpe")
    return LegacyDraft(header, model.words, tensors, again=len(model.words))


def _linear(model: Model, name: str, values: NDArray[Any]) -> NDArray[Any]:
    if model.family == "gpt2":
        return values.T  # checkpoints have inputs by outputs
    if not name.endswith("c_attn"):
        return values
    n_embd, width = model.n_embd, model.n_embd // model.n_head
    rest = values.shape[1:]
    if model.config["multi_query"]:
        # The engine has no attention with shared heads: keys and values are repeated.
        queries, keys, others = np.split(values, (n_embd, n_embd + width))
        repeats = (model.n_head, *[1] * len(rest))
        return np.concatenate([queries, np.tile(keys, repeats), np.tile(others, repeats)])
    by_head = values.reshape(model.n_head, 3, width, *rest)
    return by_head.swapaxes(0, 1).reshape(values.shape)


def _neox(model: Model) -> LegacyDraft:
    linear = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h",
              "mlp.dense_4h_to_h", "input_layernorm", "post_attention_layernorm")  # fmt: skip
    names = [f"{name}.{kind}" for name in linear for kind in _ALL]
    head = next(n for n in ("embed_out.weight", "lm_head.weight") if n in model.weights)
    weights = {
        **model.take(["gpt_neox.embed_in.weight"]),
        "embed_out.weight": model.weights[head],
        **model.of_layers("gpt_neox.layers", names),
        **model.take(f"gpt_neox.final_layer_norm.{kind}" for kind in _ALL),
    }
    header = _header(model, "n_vocab n_ctx n_embd n_head n_layer n_rot par_res ftype")
    return LegacyDraft(header, model.words, _tensors(weights))


def _mpt(model: Model) -> LegacyDraft:
    names = ("norm_1", "attn.Wqkv", "attn.out_proj", "norm_2", "ffn.up_proj", "ffn.down_proj")
    weights = {
        **model.take(["transformer.wte.weight"]),
        **model.of_layers("transformer.blocks", [f"{name}.weight" for name in names]),
        **model.take(["transformer.norm_f.weight"]),
    }
    fields = "n_embd n_ctx n_head n_layer n_vocab alibi_bias_max clip_qkv ftype"
    # Each byte is the letter of Latin-1 of that number.
    words = [word.decode("latin-1").encode() for word in model.words]
    return LegacyDraft(_header(model, fields), words, _tensors(weights))


def _header(model: Model, fields: str) -> dict[str, float]:
    config = model.config
    attention = config.get("attn_config") or {}
    rotated = config.get("rope_parameters") or {}
    part = rotated.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    numbers = {
        "n_vocab": len(model.words),
        "n_ctx": model.number("n_positions", "max_position_embeddings", "max_seq_len"),
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_layer": model.n_layer,
        "n_rot": int(model.n_embd // model.n_head * part),
        "par_res": int(config.get("use_parallel_residual", True)),
        "alibi_bias_max": attention.get("alibi_bias_max", 8),
        "clip_qkv": attention.get("clip_qkv") or 0,
        "ftype": 1,
    }
    return {field: numbers[field] for field in fields.split()}


_LEGACY = {
    "falcon": _ggcc,
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt2,
    "gpt_neox": _neox,
    "mpt": _mpt,
}


def written(name: str, suffix: str) -> bytes:
    """The file of a model: ``.bin`` or ``.gguf``."""
    model = Model(name)
    if suffix == ".gguf":
        return (_falcon_gguf if model.family == "falcon" else _llama)(model).to_bytes()
    return _LEGACY[model.family](model).to_bytes()
