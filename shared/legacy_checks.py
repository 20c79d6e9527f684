"""Checks of the numbers in legacy headers: what would overflow, divide by zero or never end."""

import math
import struct
from collections.abc import Mapping

from shared.binary_reader import BinaryReader
from shared.engine_memory import LEGACY_BUFFER, Dimensions, legacy_buffers, max_layers
from shared.ggml_types import TENSOR_TYPES
from shared.legacy_layouts import Served
from shared.model_file import Family, FileFormat

_INT_MAX = (1 << 31) - 1
MAX_CONTEXT = 1 << 20
_MAX_WIDTH = 1 << 16
_OBJECT_BYTES = 32
_TENSOR_BYTES = 288


def check_header(
    reader: BinaryReader,
    served: Served,
    header: Mapping[str, int],
    floats: Mapping[str, float],
    weight_type: int,
) -> None:
    """Check that the library can compute with a header's numbers.

    It takes most products as 32-bit integers (``n_elements`` and ``ctx_size`` of the loaders).

    Raises:
        ModelFileError: it cannot.
    """
    n_embd, n_ctx = header[served.width], header[served.context]
    n_head, n_layer = header[served.heads], header[served.layers]
    for name, value, most in (
        (served.context, n_ctx, MAX_CONTEXT),
        (served.width, n_embd, _MAX_WIDTH),
        (served.heads, n_head, _MAX_WIDTH),
        (served.layers, n_layer, max_layers(served.family, FileFormat.GGML)),
    ):
        if not 1 <= value <= most:
            reader.fail(
                f"damaged, or too large for the engine: {name} is {value:,}, "
                f"and 1 to {most:,} are possible"
            )
    check_heads(reader, n_embd, n_head)
    block = TENSOR_TYPES[weight_type][1]
    if n_embd % block:
        reader.fail(f"a width of {n_embd} is no multiple of {block}, as its weights need")
    if served.family is Family.MPT:
        _check_mpt(reader, floats)
    if served.family is Family.GPT_NEOX:
        _check_neox(reader, header, n_embd // n_head)
    products = [
        ("vocabulary", header["n_vocab"] * n_embd),
        ("feed-forward layer", 4 * n_embd * n_embd),
        ("context", n_ctx * n_embd),
        ("cache", n_layer * n_ctx * (n_embd if served.family is Family.STARCODER else 1)),
        ("logits", 512 * header["n_vocab"]),
    ]
    for what, product in products:
        if product > _INT_MAX:
            reader.fail(f"its {what} is too large for the engine: {product:,} elements")
    size = Dimensions(header["n_vocab"], n_ctx, n_embd, n_head, n_head, n_layer, 4 * n_embd)
    buffers = legacy_buffers(served.family, size, weight_type)
    if buffers.longest(LEGACY_BUFFER, LEGACY_BUFFER) < min(n_ctx, 32):
        reader.fail("it is too wide for the engine's evaluation buffers")


def check_heads(reader: BinaryReader, n_embd: int, n_head: int) -> None:
    """Check that heads divide the width, as the graphs of all families assume.

    Raises:
        ModelFileError: they do not.
    """
    if n_embd % n_head:
        reader.fail(f"{n_head} attention heads do not divide a width of {n_embd}")


def _check_mpt(reader: BinaryReader, floats: Mapping[str, float]) -> None:
    bias, clip = floats["alibi_bias_max"], floats["clip_qkv"]
    if not (math.isfinite(bias) and 0 < bias <= 1024):
        reader.fail(
            f"its alibi_bias_max is {bias}, and must be positive (8 is usual): the engine knows "
            "only MPT models with ALiBi"
        )
    if not (math.isfinite(clip) and clip >= 0):
        reader.fail(f"damaged: its clip_qkv is {clip}")


def _check_neox(reader: BinaryReader, header: Mapping[str, int], head_dim: int) -> None:
    n_rot = header["n_rot"]
    if not 2 <= n_rot <= head_dim or n_rot % 2:
        reader.fail(
            f"damaged: n_rot is {n_rot}, and must be an even number up to the {head_dim} of a head"
        )
    if header["par_res"] not in (0, 1):
        reader.fail(f"damaged: par_res is {header['par_res']}, and must be 0 or 1")


def check_context_size(
    reader: BinaryReader, family: Family, header: Mapping[str, int], weight_type: int
) -> None:
    """Check that the block of memory that a loader asks for holds all that it puts there.

    The loaders add up its size in 32-bit floating point, which rounds.

    Raises:
        ModelFileError: it would be too small, which ends the process.
    """
    parts, tensors = _context_parts(family, header, weight_type)
    size = 0
    for part in parts:
        size = int(_f32(_f32(size) + part))
    slack = {Family.MPT: (1, 6, 512), Family.GPT_NEOX: (6, 16, 1024)}.get(family, (6, 12, 512))
    n_layer = header["n_layers" if family is Family.MPT else "n_layer"]
    size += (slack[0] + slack[1] * n_layer) * slack[2]
    needed = sum(
        count * (_OBJECT_BYTES + _pad16(_TENSOR_BYTES + n_bytes)) for count, n_bytes in tensors
    )
    if needed > _pad16(size):
        reader.fail("the engine would reserve too little memory for a model of these dimensions")


def _context_parts(
    family: Family, header: Mapping[str, int], weight_type: int
) -> tuple[list[float], list[tuple[int, int]]]:
    """The sums of a loader, and number and size of the tensors that it creates."""
    _, block, block_bytes = TENSOR_TYPES[weight_type]

    def matrix(elements: int) -> float:
        return _f32(_f32(elements) * (block_bytes / block))

    def matrix_bytes(elements: int) -> int:
        return elements // block * block_bytes

    d = header["d_model" if family is Family.MPT else "n_embd"]
    n_ctx = header["max_seq_len" if family is Family.MPT else "n_ctx"]
    n_layer = header["n_layers" if family is Family.MPT else "n_layer"]
    n_vocab = header["n_vocab"]
    square = d * d
    if family is Family.MPT:
        cache = n_ctx * n_layer * d * 2
        parts = [matrix(d * n_vocab), _f32(d * 4)]
        layer = [d * 4.0, matrix(3 * square), matrix(square), d * 4.0, matrix(4 * square)]
        layer.append(matrix(4 * square))
        parts += [_f32(n_layer * _f32(part)) for part in layer]
        parts += [_f32(cache)] * 2
        tensors = [
            (1, matrix_bytes(d * n_vocab)),
            (1 + 2 * n_layer, d * 4),
            (n_layer, matrix_bytes(3 * square)),
            (n_layer, matrix_bytes(square)),
            (2 * n_layer, matrix_bytes(4 * square)),
            (2, cache),
        ]
        return parts, tensors
    half = family is Family.GPT_NEOX
    cache = n_ctx * n_layer * d * 4
    parts = [_f32(d * 4)] * 2 + [matrix(d * n_vocab)]
    if not half:
        parts.append(_f32(n_ctx * d * 4))
    parts.append(matrix(d * n_vocab))
    vectors = [d * 4.0] * 4
    layer = [*vectors, matrix(3 * square), 3 * d * 4.0, matrix(square)]
    layer.append(_f32(square * 4) if half else d * 4.0)
    layer += [matrix(4 * square), 4 * d * 4.0, matrix(4 * square), d * 4.0]
    parts += [_f32(n_layer * _f32(part)) for part in layer]
    parts += [_f32(cache)] * 2
    tensors = [
        (2, matrix_bytes(d * n_vocab)),
        (2 + 6 * n_layer, d * 4),
        (n_layer, 3 * d * 4),
        (n_layer, 4 * d * 4),
        (n_layer, matrix_bytes(3 * square)),
        (n_layer, matrix_bytes(square)),
        (2 * n_layer, matrix_bytes(4 * square)),
        (2, cache // 2 if half else cache),
    ]
    if not half:
        tensors.append((1, n_ctx * d * 4))
    return parts, tensors


def _f32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _pad16(size: int) -> int:
    return (size + 15) // 16 * 16
