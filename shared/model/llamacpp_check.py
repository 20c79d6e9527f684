"""Checks of a GGUF file for llama.cpp, which refuses most of what is wrong itself, with a reason.

Checked here is what it believes: numbers and types with which it ends the process, and lengths and
ids past whose end it would read. Found by loading files of which one value had been changed.
"""

import re
from typing import Any

from shared.model.gguf import MERGES, SCORES, TOKEN_TYPES, TOKENS, GGUFFile, ValueType
from shared.model.tensors import F32

_VERSIONS = (2, 3)
_MOST_LAYERS = 512
_MOST_EXPERTS = 1024
_MOST_NUMBER = 1 << 24
_LONGEST_CONTEXT = 1 << 27
_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_SPECIAL_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
# Of a kind of vocabulary, the ids that the library takes where a file names none.
_USUAL_IDS = {
    "bert": {"bos": 101, "unknown": 100, "seperator": 102},
    "gpt2": {"bos": 11, "eos": 11},
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
}
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
# Of each architecture the numbers that the library divides by, or multiplies without a look.
_NUMBERS = (
    "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "rope.dimension_count", "expert_count",
    "expert_used_count", "expert_group_count", "expert_group_used_count",
    "attention.sliding_window", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size",
    "ssm.group_count", "ssm.time_step_rank", "wkv.head_size", "attention.key_length_swa",
    "attention.value_length_swa", "rope.dimension_count_swa", "nextn_predict_layers",
)  # fmt: skip
_SCALINGS = ("none", "linear", "yarn", "longrope")
# Turn all of a head, or end the process.
_FULL_ROTATION = frozenset({"granite", "granitemoe", "jais2", "qwen3", "qwen3moe"})
# Types of intermediate results and of indices; no kernel multiplies by them. Vectors and
# convolutions are F32.
_NO_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
_INDICES, _CONVOLUTION = "tid2eid", "ssm_conv1d"
# Bytes that UTF-8 never has.
_NO_BYTES = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})


def check_for_llamacpp(file: GGUFFile) -> None:
    """Check all that the library believes.

    Raises:
        ModelFileError: it would end the process.
    """
    if file.version not in _VERSIONS:
        file.fail(f"GGUF version {file.version}: llama.cpp reads versions 2 and 3")
    if not file.architecture:
        file.fail("it names no architecture (general.architecture), as every model does")
    for key in _NUMBERS:
        for number in file.numbers(key):
            if not 0 <= number <= _MOST_NUMBER:
                file.fail(f"damaged: {file.architecture}.{key} is {number:,}")
    for key in ("embedding_length", "context_length"):
        if not file.most(key):
            file.fail(f"its {file.architecture}.{key} should be a positive number")
    if not 1 <= file.most("context_length") <= _LONGEST_CONTEXT:
        file.fail(f"damaged: it names a context of {file.most('context_length'):,} tokens")
    for name in _EPSILONS:
        value = file.metadata.get(f"{file.architecture}.attention.{name}", 0)
        if not isinstance(value, int | float) or not value >= 0:
            file.fail(f"damaged: {file.architecture}.attention.{name} is {value!r:.40}")
    _check_layers(file)
    _check_heads(file)
    _check_rotations(file)
    _check_window(file)
    _check_experts(file)
    _check_types(file)
    _check_vocabulary(file)


def _check_layers(file: GGUFFile) -> None:
    n_layers = file.most("block_count")
    found = [int(m[1]) for t in file.tensors if (m := _BLOCK.search(t.name))]
    if not 1 <= n_layers <= _MOST_LAYERS:
        file.fail(f"damaged: it names {n_layers:,} layers; 1 to {_MOST_LAYERS} are possible")
    if found and max(found) >= n_layers:
        file.fail(f"damaged: it names {n_layers} layers, and has tensors of {max(found) + 1}")
    n_ahead = file.most("nextn_predict_layers")
    if n_ahead > n_layers:
        file.fail(f"damaged: {n_ahead:,} of its {n_layers} layers predict further tokens")


def _check_heads(file: GGUFFile) -> None:
    rows = {tensor.name: tensor.shape[-1] for tensor in file.tensors}
    widths = {(_width(file, "key", kind), _width(file, "value", kind)) for kind in ("", "_swa")}
    for name, n_keys in rows.items():
        layer, is_attention, part = name.rpartition(".attn_")
        if not is_attention:
            continue
        queries = (f"{layer}.attn_{part}.weight" for part in ("q", "qkv", "q_a", "q_b"))
        if part == "output.weight" and rows.keys().isdisjoint(queries):
            file.fail(f"damaged: {layer} has no queries: no tensor {layer}.attn_q.weight")
        n_values = n_keys if part == "qkv.weight" else rows.get(f"{layer}.attn_v.weight", 0)
        if part not in ("k.weight", "qkv.weight") or not n_values:
            continue
        if all(n_keys * value != n_values * key for key, value in widths):
            found = " or ".join(f"{key:,} numbers and a value {value:,}" for key, value in widths)
            file.fail(f"damaged: a key has {found}; not in {name}")


def _width(file: GGUFFile, part: str, kind: str = "") -> int:
    """Numbers of a head's keys or values; of layers with a window, ``_swa``, maybe others."""
    heads = file.most("embedding_length") // max(1, file.most("attention.head_count"))
    key = f"attention.{part}_length"
    return file.most(f"{key}{kind}") or file.most(key) or heads


def _check_rotations(file: GGUFFile) -> None:
    _check_rotation(file, "rope.dimension_count", _width(file, "key"))
    _check_rotation(file, "rope.dimension_count_swa", _width(file, "key", "_swa"))
    scaling = file.text(f"{file.architecture}.rope.scaling.type")
    if scaling is not None and scaling not in _SCALINGS:
        file.fail(f"it scales rotations by {scaling!r:.40}; known are {', '.join(_SCALINGS)}")


def _check_rotation(file: GGUFFile, key: str, width: int) -> None:
    """Positions turn pairs of numbers within a head; without attention there are none."""
    least = 0 if file.most("ssm.conv_kernel") else 2
    for n in file.numbers(key):
        if n % 2 or not least <= n <= width:
            file.fail(
                f"damaged: {file.architecture}.{key} is {n:,}; it should be even, and at most"
                f" {width:,}"
            )
        if n != width and file.architecture in _FULL_ROTATION:
            file.fail(f"damaged: {file.architecture}.{key} is {n:,}; it should be {width:,}")


def _check_window(file: GGUFFile) -> None:
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, list) and file.most("attention.sliding_window") and not any(pattern):
        file.fail("damaged: it names a sliding window, and no layer that has one")


def _check_experts(file: GGUFFile) -> None:
    found = {tensor.shape[-1] for tensor in file.tensors if "_exps." in tensor.name}
    n_experts, n_used = file.most("expert_count"), file.most("expert_used_count")
    if not bool(n_experts) <= n_used <= n_experts <= _MOST_EXPERTS or (found or {n_experts}) != {
        n_experts
    }:
        has = f", and has tensors of {', '.join(map(str, sorted(found)))}" if found else ""
        file.fail(f"damaged: it names {n_experts:,} experts, of which {n_used:,} are used{has}")
    n_groups, n_used = file.most("expert_group_count"), file.most("expert_group_used_count")
    is_sound = n_groups < n_experts or not n_groups
    if n_groups > 1:
        is_sound = is_sound and n_experts % n_groups == 0 and 0 < n_used < n_groups
    if not is_sound:
        file.fail(
            f"damaged: it names {n_groups:,} groups of {n_experts:,} experts, of which {n_used:,}"
            " are used"
        )


def _check_types(file: GGUFFile) -> None:
    for tensor in file.tensors:
        if _INDICES in tensor.name:
            continue
        is_float = len(tensor.shape) == 1 or _CONVOLUTION in tensor.name
        if tensor.type_name in _NO_WEIGHTS or (is_float and tensor.ggml_type != F32):
            file.fail(
                f"tensor {tensor.name} is of type {tensor.type_name}, which llama.cpp does not"
                " evaluate there"
            )


def _check_vocabulary(file: GGUFFile) -> None:
    n_vocab = file.n_vocab
    if not n_vocab or not isinstance(file.metadata[TOKENS][0], bytes):
        file.fail("it has no vocabulary")
    if file.tokenizer_model == "gpt2" and file.is_byte_form:
        file.fail(
            "its vocabulary is in the form that ctransformers reads; llama.cpp reads the file"
            " that it was made from"
        )
    for key, kind in ((TOKEN_TYPES, ValueType.INT32), (SCORES, ValueType.FLOAT32)):
        entry, values = file.entries.get(key), file.metadata.get(key)
        if entry is None:
            continue
        if entry.item_type is not kind or not values or len(values) != n_vocab:
            file.fail(f"metadata {key} should be an array of {n_vocab:,} numbers")
    merges = file.metadata.get(MERGES, [])
    if not isinstance(merges, list) or not all(isinstance(merge, bytes) for merge in merges):
        file.fail(f"metadata {MERGES} should be an array of texts")
    ids = {f"tokenizer.ggml.{name}_token_id": token
           for name, token in _USUAL_IDS.get(file.tokenizer_model, {}).items()}  # fmt: skip
    ids |= {key: value for key, value in file.metadata.items() if _SPECIAL_ID.fullmatch(key)}
    for key, value in ids.items():
        if not _is_id(value, n_vocab):
            file.fail(f"metadata {key} is {value!r:.40}, but there are {n_vocab} tokens")
    _check_tokens(file)


def _check_tokens(file: GGUFFile) -> None:
    known = {token for token in file.metadata[TOKENS] if token}
    n_named = sum(1 for token in file.metadata[TOKENS] if token)
    if len(known) < n_named:
        file.fail(f"damaged: {n_named - len(known):,} tokens of its vocabulary occur twice")
    if file.tokenizer_model != "llama":
        return
    missing = [
        byte
        for byte in set(range(256)) - _NO_BYTES
        if not known & {b"<0x%02X>" % byte, bytes([byte])}
    ]
    if missing:
        file.fail(
            f"its vocabulary has no token for {len(missing)} bytes, such as 0x{min(missing):02X},"
            " which a SentencePiece vocabulary needs"
        )


def _is_id(value: Any, n_vocab: int) -> bool:
    return isinstance(value, int) and 0 <= value < n_vocab
