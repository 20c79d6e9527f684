"""Compares a new build of the library with the package's own, before it is ever used.

Each library evaluates the same small models in a process of its own, which may die of it:
``python -m worker.build.self_test LIBRARY FOLDER`` writes the name of each model before it is
evaluated, and at the end all logits, a numpy archive, into the folder. The models have random
weights and talk nonsense, but run the same code as real ones: each type of weights once, and each
family of legacy files. All formats share that code (``ggml.c``, ``k_quants.c``).
"""

import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.exit_status import ended
from shared.model.description import Dimensions, Family
from shared.model.layouts import FLOAT_FIELDS, LAYOUTS, shapes_of
from shared.model.tensors import F32, FLOAT_MATRICES, TENSOR_TYPES
from worker.engines.base import SlotTokens
from worker.engines.ctransformers import CTransformersEngine

SIZE = Dimensions(
    n_vocab=320, n_ctx_train=128, n_embd=256, n_head=4, n_head_kv=4, n_layer=2, n_ff=1024
)
_BLOCKS = {
    2: (0, None, 0.0, 4.6), 3: (0, 2, -7.5, 4.6), 6: (0, None, 0.0, 9.2), 7: (0, 2, -15.5, 9.2),
    8: (0, None, 0.0, 74.0), 10: (80, 82, 1.5, 12.0), 11: (108, None, 0.0, 42.0),
    12: (0, 2, 7.5, 170.0), 13: (0, 2, 15.5, 330.0), 14: (208, None, 0.0, 1370.0),
}  # fmt: skip
"""Per quantised type: where a block has its scale, where its offset, the offset as a part of the
scale that centres random bits, and the standard deviation that these then have, in scales."""
_FILE_TYPES = {0: 0, 1: 1, 2: 2002, 3: 2003, 6: 2008, 7: 2009, 8: 2007} | {
    number: 2000 + number for number in range(10, 15)
}
"""Per type: the number of files of it, with ggml's version 2 of quantised blocks."""
MODELS = (
    *((Family.STARCODER, number) for number in _FILE_TYPES),
    *((family, number) for family in (Family.MPT, Family.GPT_NEOX) for number in (1, 2)),
)
"""What is evaluated: family, and type of the weights."""
N_TOKENS = 80
"""More than two blocks of the KV cache."""
_SPLITS = ((0, 2), *((n, 1) for n in (0, 1, 31, 32, 33, 62, 79)))
"""Tokens that are in the cache when the rest is evaluated, and threads for it."""
_MOST_RMS = {True: 0.002, False: 0.06}
"""Root mean square of the differences of logits, as a part of their standard deviation, where the
weights are floats, and where they are integers: activations are 8-bit integers then, and rounding
moves some to a neighbour. ctransformers' own variants are 0.0005 and 0.022 apart; a mistake makes
1."""
_TIE = 0.2
"""Of the same: greedy tokens may differ where the best two are closer than that."""
_ROOT = Path(__file__).resolve().parents[2]
_RESULT = "logits.npz"
_LONGEST_S = 600.0

Logits = NDArray[np.float32]


def self_test(library: Path, reference: str, scratch: Path) -> float | None:
    """Check that a library gives the reference's logits to rounding, and its greedy tokens.

    Its own must be the same to the bit, wherever a prompt is cut into chunks.

    The reference is the package's own, or empty if it has none for this machine.

    Returns:
        The largest difference, as a part of the logits' standard deviation; None without reference.

    Raises:
        EngineError: it failed.
        OSError: the models cannot be written.
    """
    for family, ggml_type in MODELS:
        (scratch / name_of(family, ggml_type)).write_bytes(b"".join(_file(family, ggml_type)))
    found = _evaluate_apart(str(library), scratch)
    unequal = [name for name, logits in found.items() if not np.array_equal(logits[-1], logits[-2])]
    if unequal:
        raise EngineError(
            f"the self-test failed: {unequal[0]} gives other logits when its prompt is evaluated in"
            " other chunks; another compiler, named with CC and CXX, may do better"
        )
    for name, logits in found.items():
        if not np.isfinite(logits).all():
            raise EngineError(f"the self-test failed: logits of {name} are not finite")
    if not reference:
        return None
    wanted = _evaluate_apart(reference, scratch)
    # The last row is that of other chunks, in which that library may round otherwise.
    return max(difference(name, found[name][:-1], wanted[name][:-1]) for name in found)


def name_of(family: Family, ggml_type: int) -> str:
    return f"{family.value}-{TENSOR_TYPES[ggml_type][0].lower()}.bin"


def difference(name: str, found: Logits, wanted: Logits) -> float:
    """The root mean square of a model's differences, as a part of the standard deviation.

    Raises:
        EngineError: they are no rounding, or make other greedy tokens.
    """
    deviation = float(wanted.std())
    rms = float(np.sqrt(np.square(found - wanted).mean())) / deviation
    most = _MOST_RMS[name.endswith(("-f32.bin", "-f16.bin"))]
    if rms > most:
        raise EngineError(
            f"the self-test failed: logits of {name} differ by {rms:.3f} of their standard"
            f" deviation from ctransformers' own library; at most {most} is rounding"
        )
    rows = np.arange(len(wanted))
    behind = wanted.max(axis=1) - wanted[rows, found.argmax(axis=1)]
    if behind.max() > _TIE * deviation:
        raise EngineError(f"the self-test failed: {name} gives other greedy tokens")
    return rms


def _file(family: Family, ggml_type: int) -> Iterator[bytes]:
    layout = next(one for one in LAYOUTS if one.family is family)
    assert layout.tensors is not None
    numbers: dict[str, float] = {
        "n_vocab": SIZE.n_vocab, "n_ctx": SIZE.n_ctx_train, "n_embd": SIZE.n_embd,
        "n_head": SIZE.n_head, "n_layer": SIZE.n_layer, "alibi_bias_max": 8.0, "clip_qkv": 0.0,
        "n_rot": SIZE.n_embd // SIZE.n_head, "par_res": 1, "ftype": _FILE_TYPES[ggml_type],
    }  # fmt: skip
    yield b"lmgg"
    for name in layout.fields.split():
        yield struct.pack("<f" if name in FLOAT_FIELDS else "<i", numbers[name])
    if layout.n_vocab_again:
        yield struct.pack("<i", SIZE.n_vocab)
    for number in range(SIZE.n_vocab):
        word = b"word%d" % number
        yield struct.pack("<I", len(word)) + word
    for name, shape in shapes_of(layout.tensors, SIZE).items():
        kind = F32 if len(shape) == 1 or name in FLOAT_MATRICES else ggml_type
        yield struct.pack(f"<{3 + len(shape)}i", len(shape), len(name), kind, *shape)
        yield name.encode() + _values(name, shape, kind)


def _values(name: str, shape: tuple[int, ...], ggml_type: int) -> bytes:
    """Random weights of a tensor, always the same, by which a normed vector keeps its length."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = math.prod(shape)
    _, block, block_bytes = TENSOR_TYPES[ggml_type]
    is_norm = len(shape) == 1 and name.endswith(("weight", "/g"))
    scale = shape[0] ** -0.5 if len(shape) > 1 else 0.1
    if block == 1:
        values = rng.standard_normal(count, np.float32) * np.float32(scale) + np.float32(is_norm)
        return values.astype("<f4" if ggml_type == F32 else "<f2").tobytes()
    at, offset_at, offset, deviation = _BLOCKS[ggml_type]
    n_blocks = count // block
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
    scales = (scale / deviation * rng.uniform(0.8, 1.2, n_blocks)).astype("<f2")
    blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
    if offset_at is not None:
        offsets = (scales * np.float16(offset)).astype("<f2")
        blocks[:, offset_at : offset_at + 2] = offsets.view(np.uint8).reshape(n_blocks, 2)
    return blocks.tobytes()


def _evaluate_apart(library: str, scratch: Path) -> dict[str, Logits]:
    # From our own sources, wherever they were imported from.
    command = [sys.executable, "-m", "worker.build.self_test", library, str(scratch)]
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"the self-test of {library} took over {_LONGEST_S:.0f} s") from None
    if done.returncode:
        model = done.stdout.strip().rpartition("\n")[2] or "starting"
        reason = done.stderr.strip().rpartition("\n")[2]
        raise EngineError(
            f"the self-test of {library} failed at {model} ({ended(done.returncode)}) {reason}"
        )
    with np.load(scratch / _RESULT) as archive:
        return dict(archive)


def _evaluate(library: str, folder: Path) -> None:
    """Logits after each token, evaluated by itself, and the last ones again in other chunks."""
    tokens: list[int] = np.random.default_rng(0).integers(0, SIZE.n_vocab, N_TOKENS).tolist()
    results = {}
    for family, ggml_type in MODELS:
        name = name_of(family, ggml_type)
        print(name, flush=True)
        config = WorkerConfig("ctransformers", str(folder / name), family.value, library=library)
        engine = CTransformersEngine(config)
        rows = [_forward(engine, [token], 1) for token in tokens]
        last = rows[-1]
        for n_cached, threads in _SPLITS:
            cached = engine.reuse_prefix(0, tokens[: n_cached + 1])
            again = _forward(engine, tokens[cached:], threads)
            last = last if np.array_equal(again, rows[-1]) else again
        results[name] = np.array([*rows, last])
    np.savez(folder / _RESULT, **results)  # type: ignore[arg-type]


def _forward(engine: CTransformersEngine, tokens: list[int], threads: int) -> Logits:
    while True:
        n = engine.chunk_size(0)
        (logits,) = engine.forward([SlotTokens(0, tokens[:n])], threads)
        tokens = tokens[n:]
        if not tokens:
            assert logits is not None
            copied: Logits = logits.copy()
            return copied


if __name__ == "__main__":
    _evaluate(sys.argv[1], Path(sys.argv[2]))
