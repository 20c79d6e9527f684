"""What llama.cpp takes for a model: one cache for all slots of a worker, and buffers."""

from shared.model.description import Dimensions, MemoryNeeds
from shared.model.gguf import MERGES, GGUFFile

ROWS = 64
"""Tokens that the engine evaluates together, at most, and one more."""
_F16, _F32 = 2, 4
# What tables of the vocabulary take, in the library and here: together 24 MiB for SmolLM2, whose
# 49,152 tokens have as many merges, and 34 for Gemma 3, whose 262,144 have none.
_PER_TOKEN, _PER_MERGE = 150, 300
# Of these every n-th layer, and the last of each n, sees all; the others see a window.
_SEES_ALL = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2}


def needs(file: GGUFFile, size: Dimensions) -> MemoryNeeds:
    """What a worker takes, at most; layers of which it is not known are counted as if they saw all.

    Measured with n_ctx 4,096 and 8 slots: of SmolLM2 the library reports 45 MiB of cache and 13 of
    buffers, and this says 45 and 19; of Gemma 3 270M 72 and 65, and this says 72 and 71.
    """
    by_layer = _kv_by_layer(file, size)
    windowed = _windowed_layers(file, size)
    n_merges = len(file.metadata.get(MERGES) or ())
    state = _F32 * size.n_layer * _state(file, size)
    row = _F32 * (8 * size.n_embd + 3 * size.n_ff + size.n_vocab)
    scratch_per_token = ROWS * size.n_head * _F32
    return MemoryNeeds(
        weights=file.weight_bytes + _PER_TOKEN * size.n_vocab + _PER_MERGE * n_merges,
        kv_per_token=sum(n for layer, n in enumerate(by_layer) if layer not in windowed),
        scratch=ROWS * row + size.n_ctx_train * scratch_per_token,
        scratch_per_token=scratch_per_token,
        per_slot=_F32 * size.n_vocab + state,
        state=state,
        window=file.most("attention.sliding_window") if windowed else 0,
        kv_per_window_token=sum(n for layer, n in enumerate(by_layer) if layer in windowed),
        rows=ROWS,
    )


def _kv_by_layer(file: GGUFFile, size: Dimensions) -> list[int]:
    """Bytes of the keys and values of a token in each layer; 0 in recurrent ones, where it says."""
    if not file.metadata.get(f"{file.architecture}.attention.causal", True):
        return [0] * size.n_layer
    head = size.n_embd // max(1, size.n_head)
    width = 0
    for kind in ("attention.key_length", "attention.value_length"):
        width += max(file.most(kind) or head, file.most(f"{kind}_swa"))
    interval = file.most("full_attention_interval")
    return [
        0 if interval and layer % interval != interval - 1 else _F16 * width * n_heads
        for layer, n_heads in enumerate(heads_kv(file, size.n_layer))
    ]


def heads_kv(file: GGUFFile, n_layers: int) -> list[int]:
    """Heads of keys and values of each layer; of recurrent layers 0, where the file says so."""
    heads = file.numbers("attention.head_count_kv") or file.numbers("attention.head_count")
    return heads * n_layers if len(heads) == 1 else heads


def _windowed_layers(file: GGUFFile, size: Dimensions) -> set[int]:
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern")
    if not file.most("attention.sliding_window"):
        return set()
    if isinstance(pattern, list):
        return {layer for layer, sees_window in enumerate(pattern) if sees_window}
    period = _SEES_ALL.get(file.architecture, 1)
    if isinstance(pattern, int) and period > 1:
        period = max(1, pattern)
    return {layer for layer in range(size.n_layer) if layer % period != period - 1}


def _state(file: GGUFFile, size: Dimensions) -> int:
    """Numbers that a recurrent layer keeps of a sequence; 0 for models of attention alone."""
    inner, width = file.most("ssm.inner_size"), file.most("ssm.state_size")
    mixed = inner + 2 * max(1, file.most("ssm.group_count")) * width
    mamba = inner * width + file.most("ssm.conv_kernel") * mixed
    others = ("wkv.head_size", "token_shift_count", "shortconv.l_cache")
    return mamba + size.n_embd * sum(map(file.most, others))
