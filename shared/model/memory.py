"""What ctransformers 0.2.27 takes for a model, and how long a context its fixed buffers can hold.

The formulas add up the tensors that the library's evaluation graphs create, for a batch of N
tokens that ends at position P: ``llms/starcoder.cc``, ``llms/mpt.cc``, ``llms/gpt-neox.cc``,
``ggml/libfalcon.cpp`` (``falcon_eval_internal``) and ``ggml/llama.cpp`` (``llm_build_*``). The
first four write into scratch buffers of a fixed size and end the process when one overflows.
"""

from dataclasses import dataclass

from shared.model.description import Dimensions, Family, FileFormat, MemoryNeeds
from shared.model.tensors import TENSOR_TYPES

BATCH = 32
"""The most tokens that the engine evaluates at once."""
LEGACY_BUFFER = 256 << 20
"""Bytes of each of the three static buffers of the ``ggml`` families."""
MAX_NODES = 4096
"""``GGML_MAX_NODES``: nodes of an evaluation graph, or the process ends."""

_F32, _F16 = 4, 2
_MIB = 1 << 20
_OBJECT = 320 + 16
"""``GGML_OBJECT_SIZE + GGML_TENSOR_SIZE``, and a scalar beside it."""
_DEFAULT_BATCH = 512
"""``n_batch`` of the default parameters, by which Falcon's buffers are sized."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """Sizes of a family's evaluation graph."""

    #: rows of ``n_embd`` 32-bit floats per token of the batch in the first scratch buffer
    attention: int
    feed_forward: int  #: the same in the second
    scores: int  #: copies of the attention scores, ``N * P * n_head`` 32-bit floats each
    value_bytes: int  #: of a transposed copy of the values, per element of ``P * n_embd``
    kv_bytes: int  #: size of an element of the KV cache
    nodes: int  #: of one layer, at most


_GRAPHS = {
    Family.STARCODER: _Graph(21, 25, 1, _F32, _F32, 48),
    Family.GPT2: _Graph(21, 25, 1, _F32, _F32, 48),
    Family.MPT: _Graph(11, 13, 4, _F16, _F16, 38),
    Family.GPT_NEOX: _Graph(22, 26, 1, 0, _F16, 51),
}
_FALCON_NODES = 43
_NODES_OUTSIDE = 10
"""Nodes before the first layer and after the last one, at most."""


def max_layers(family: Family, file_format: FileFormat) -> int:
    """How many layers fit into the engine's graph tables."""
    if file_format is FileFormat.GGUF:
        return 100
    nodes = _FALCON_NODES if file_format is FileFormat.GGCC else _GRAPHS[family].nodes
    return (MAX_NODES - _NODES_OUTSIDE) // nodes


def work_bytes(ggml_type: int) -> float:
    """Bytes per element into which activations are converted to meet weights of a type."""
    name, block, _ = TENSOR_TYPES[ggml_type]
    if name in ("F32", "F16"):
        return {"F32": 0, "F16": _F16}[name]
    if block == 256:
        return 292 / 256
    return 40 / 32 if name.endswith("_1") else 34 / 32


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes in the evaluation buffers, for a batch that ends at position ``p``."""

    #: what each holds whatever the context: first scratch, second scratch, the rest
    fixed: tuple[int, int, int]
    per_token: tuple[int, int]  #: what the first and the last hold per token of context

    def total(self, p: int) -> int:
        """Memory that is written to at position ``p``."""
        return sum(self.fixed) + sum(self.per_token) * p

    def longest(self, scratch: int, rest: int) -> int:
        """The last position at which nothing overflows; 0 if there is none.

        Args:
            scratch: size of each scratch buffer.
            rest: size of the third buffer.
        """
        room = (scratch - self.fixed[0]) // max(1, self.per_token[0])
        if self.per_token[1]:
            room = min(room, (rest - self.fixed[2]) // self.per_token[1])
        fits = self.fixed[1] <= scratch and self.fixed[2] <= rest
        return max(0, room) if fits else 0


def legacy_buffers(family: Family, size: Dimensions, ggml_type: int, n: int = BATCH) -> Buffers:
    graph = _GRAPHS[family]
    row = n * size.n_embd * _F32
    work = int(n * size.n_ff * work_bytes(ggml_type)) + 1
    work_per_token = 0
    if graph.kv_bytes == _F16:
        # Queries, and then the scores, are converted to meet a cache of 16-bit floats.
        work_per_token = n * size.n_head * _F16
        work = max(work, n * size.n_embd * _F16)
    logits = n * size.n_vocab * _F32
    objects = (60 * size.n_layer + 30) * _OBJECT
    return Buffers(
        fixed=(
            graph.attention * row,
            graph.feed_forward * row,
            3 * row + 8 * n + logits + work + objects + 64 * 256,
        ),
        per_token=(
            graph.scores * n * size.n_head * _F32 + graph.value_bytes * size.n_embd,
            work_per_token,
        ),
    )


def _ggcc_buffers(size: Dimensions, is_40b: bool, ggml_type: int, n: int = BATCH) -> Buffers:
    """Buffers of Falcon in ``ggcc`` files.

    Keys and values are repeated for all heads, and the tensors that only tell the shapes of these
    take as much room. As the context grows, what lies behind them moves over their memory.
    """
    row = n * size.n_embd * _F32
    kv = n * size.n_embd_kv * _F32
    attention = (9 if is_40b else 4) * row + row + 3 * kv + 3 * row
    head = 5 * row + n * size.n_vocab * _F32
    work = int(n * size.n_ff * work_bytes(ggml_type)) + 1
    objects = (70 * size.n_layer + 30) * _OBJECT
    return Buffers(
        fixed=(max(attention, head), 12 * row, row + 4 * n + work + objects + 64 * 256),
        per_token=((size.n_embd_kv + 4 * size.n_embd + n * size.n_head) * _F32, 0),
    )


def _gguf_buffers(size: Dimensions, ggml_type: int, n: int = BATCH) -> Buffers:
    """Buffers of GGUF files; the library measures them itself, so that nothing overflows."""
    row = n * size.n_embd * _F32
    work = int(n * size.n_ff * work_bytes(ggml_type)) + 1
    logits = n * size.n_vocab * _F32
    return Buffers(
        fixed=(8 * row + 3 * n * size.n_ff * _F32, 0, logits + work + MAX_NODES * _OBJECT),
        per_token=(n * size.n_head * _F32, n * size.n_head * _F16),
    )


def _longest_ggcc(buffers: Buffers, is_40b: bool, n_ctx: int) -> int:
    """The longest context at which the buffers, which grow with it, do not overflow."""
    second = (40 << 20) + (262_144 if is_40b else 145_752) * _DEFAULT_BATCH
    rest = (256 if is_40b else 160) << 20
    if buffers.fixed[1] > second or buffers.fixed[2] > rest:
        return 0
    slope, base = (0.00065, 118) if is_40b else (0.00029706, 92)

    def fits(n: int) -> bool:
        # FALCON_MEM_REQ_EVAL_BATCH. The library rounds to whole MiB, down; without that, what fits
        # at two lengths fits between them.
        scratch = int((n * _DEFAULT_BATCH * slope + base + 32 - 1) * _MIB)
        return buffers.fixed[0] + buffers.per_token[0] * n <= scratch

    if not fits(1):
        return 0
    if fits(n_ctx):
        return n_ctx
    low, high = 1, n_ctx
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def needs(
    file_format: FileFormat,
    family: Family,
    size: Dimensions,
    weights: int,
    ggml_type: int,
    is_40b: bool = False,
) -> tuple[MemoryNeeds, int]:
    """What the engine takes, and the longest context that it can hold in tokens.

    Args:
        file_format: layout of the file.
        family: the architecture.
        size: its numbers.
        weights: bytes of all weights as they lie in memory.
        ggml_type: the type of the big matrices.
        is_40b: Falcon with two norms in each layer.
    """
    if file_format is FileFormat.GGUF:
        buffers, longest = _gguf_buffers(size, ggml_type), size.n_ctx_train
        kv = 2 * _F16 * size.n_layer * size.n_embd_kv
    elif file_format is FileFormat.GGCC:
        buffers = _ggcc_buffers(size, is_40b, ggml_type)
        longest = _longest_ggcc(buffers, is_40b, size.n_ctx_train)
        # Keys once, values twice: each evaluation copies them from one buffer to the other.
        kv = 3 * _F32 * size.n_layer * size.n_embd_kv
    else:
        buffers = legacy_buffers(family, size, ggml_type)
        longest = min(size.n_ctx_train, buffers.longest(LEGACY_BUFFER, LEGACY_BUFFER))
        kv = 2 * _GRAPHS[family].kv_bytes * size.n_layer * size.n_embd
    return MemoryNeeds(weights, kv, buffers.total(longest), sum(buffers.per_token)), longest
