"""ctransformers and nothing else, in a process of its own."""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scripts.benchmarks.setup import N_CTX
from scripts.server import ServerFailed

_PR_SET_PDEATHSIG = 1
_llm: Any = None  # of the process that runs it


class BareEngine:
    """A process that evaluates, and takes the likeliest token."""

    def __init__(self, model: str, library: str = "") -> None:
        """Load a model; by default with the build of the library that the server chooses, too.

        Raises:
            ServerFailed: the process ended; it has said why on standard error.
        """
        spawn = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, spawn, _load, (model, library))
        self.run(1, "warm up", 4)

    def run(self, threads: int, prompt: str, n: int) -> dict[str, float]:
        """Evaluate a prompt and ``n`` tokens.

        Returns:
            Seconds to the first token (``first_s``), CPU seconds of the same (``first_cpu_s``),
            tokens in the prompt, and tokens per second after the first, by the clock and by CPU
            time (``speed``, ``cpu_speed``).

        Raises:
            ServerFailed: the process has ended.
        """
        try:
            return self._process.submit(_run, threads, prompt, n).result()
        except BrokenProcessPool:
            raise ServerFailed("the process that runs ctransformers has ended") from None

    def __enter__(self) -> "BareEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


def _load(path: str, library: str) -> None:
    from ctransformers.llm import LLM, Config

    from gateway.demo_model import default_cache_dir
    from gateway.hub import servable
    from shared.model.library import choose

    global _llm
    # Whatever ends the benchmarks, this process is not left behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    library = library or choose(os.environ.get("CT_LIB") or None, default_cache_dir()).path
    path = str(servable(Path(path), engine="ctransformers").path)
    _llm = LLM(path, "gguf", lib=library, config=Config(context_length=N_CTX, batch_size=64))


def _greedy(ids: Sequence[int], threads: int) -> Iterator[int]:
    import numpy as np

    while True:
        _llm.eval(ids, threads=threads)
        logits = np.ctypeslib.as_array(
            _llm.ctransformers_llm_logits_data(), shape=(_llm.vocab_size,)
        )
        ids = [int(logits.argmax())]
        yield ids[0]


def _run(threads: int, prompt: str, n: int) -> dict[str, float]:
    _llm._context.clear()
    # Its tokenizer takes milliseconds for what ours does in a fraction of one.
    ids = _llm.tokenize(prompt)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    tokens = _greedy(ids, threads)
    times = [(time.perf_counter(), time.process_time()) for _ in range(n) if next(tokens) >= 0]
    (first_s, first_cpu_s), (last_s, last_cpu_s) = times[0], times[-1]
    n_more = max(1, n - 1)
    return {
        "first_s": first_s - started_s,
        "first_cpu_s": first_cpu_s - cpu_s,
        "prompt_tokens": len(ids),
        "speed": n_more / max(last_s - first_s, 1e-9),
        "cpu_speed": n_more / max(last_cpu_s - first_cpu_s, 1e-9),
    }
