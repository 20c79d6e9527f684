"""Evaluates the sample models with one build of the library, in a process that may die of it.

Run as ``python -m worker.build.evaluation LIBRARY FOLDER TARGET``. Writes the name of each model
before it is evaluated, and the results, a numpy archive, at the end.
"""

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from worker.build.sample_models import N_VOCAB, SAMPLES, SPEED
from worker.engines.base import SlotTokens
from worker.engines.ctransformers import CTransformersEngine

SPEED_KEY, UNEQUAL_KEY = "speed", "unequal"
N_TOKENS = 80
"""More than two blocks of the KV cache."""
_SPLITS = ((0, 2), *((n, 1) for n in (0, 1, 31, 32, 33, 62, 79)))
"""Tokens that are in the cache when the rest is evaluated, and threads for it."""
_FIRST_TOKEN = 12
_PREFILL, _DECODE, _ROUNDS = 63, 16, 7


def main(library: str, folder: Path, target: Path) -> None:
    """Evaluate all models in ``folder``."""
    results: dict[str, NDArray[np.float32] | NDArray[np.str_]] = {}
    unequal = []
    for sample in SAMPLES:
        print(sample.name, flush=True)
        engine = _engine(folder / sample.name, library)
        logits = _one_by_one(engine)
        results[sample.name] = logits
        if not _same_in_chunks(engine, logits[-1]):
            unequal.append(sample.name)
    print(SPEED.name, flush=True)
    results[SPEED_KEY] = _speed(_engine(folder / SPEED.name, library))
    results[UNEQUAL_KEY] = np.array(unequal, np.str_)
    with target.open("wb") as file:
        np.savez(file, **results)  # type: ignore[arg-type]


def _engine(path: Path, library: str) -> CTransformersEngine:
    return CTransformersEngine(WorkerConfig("ctransformers", str(path), library=library))


def _tokens() -> list[int]:
    tokens: list[int] = np.random.default_rng(0).integers(_FIRST_TOKEN, N_VOCAB, N_TOKENS).tolist()
    return tokens


def _one_by_one(engine: CTransformersEngine) -> NDArray[np.float32]:
    """Logits after each token, shape ``(N_TOKENS, N_VOCAB)``."""
    return np.array([_forward(engine, [token], 1) for token in _tokens()])


def _same_in_chunks(engine: CTransformersEngine, wanted: NDArray[np.float32]) -> bool:
    """Whether the last logits are the same to the bit, wherever the chunks are cut."""
    tokens = _tokens()
    for n_cached, threads in _SPLITS:
        cached = engine.reuse_prefix(0, tokens[: n_cached + 1])
        if not np.array_equal(_forward(engine, tokens[cached:], threads), wanted):
            return False
    return True


def _forward(engine: CTransformersEngine, tokens: list[int], threads: int) -> NDArray[np.float32]:
    while True:
        n = engine.chunk_size(0)
        (logits,) = engine.forward([SlotTokens(0, tokens[:n])], threads)
        tokens = tokens[n:]
        if not tokens:
            copied: NDArray[np.float32] = logits.copy()
            return copied


def _speed(engine: CTransformersEngine) -> NDArray[np.float32]:
    """Tokens per second of CPU time on one thread: prefill, decode; the best of some rounds."""
    best = [0.0, 0.0]
    for _ in range(_ROUNDS):
        engine.reuse_prefix(0, [_FIRST_TOKEN])
        for place, chunks in enumerate(([_tokens()[:_PREFILL]], [[20]] * _DECODE)):
            started = time.process_time()
            for chunk in chunks:
                _forward(engine, chunk, 1)
            n_tokens = sum(map(len, chunks))
            best[place] = max(best[place], n_tokens / (time.process_time() - started))
    return np.array(best, np.float32)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
