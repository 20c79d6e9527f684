"""llama.cpp's library and nothing else: evaluation and argmax, in processes of its own."""

import ctypes
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import numpy as np

from scripts.benchmarks.setup import CORES
from scripts.server import ServerFailed
from worker.engines.llamacpp_library import Library
from worker.engines.llamacpp_rows import Rows

_PR_SET_PDEATHSIG = 1
_BATCH = 512
_FLOAT_BYTES = 4
_FIRST_TOKEN = 100  # those before are control tokens in most vocabularies


class RawLibrary:
    """As many processes as cores, each with the model and a cache for all sequences."""

    name = "the library alone, best layout"

    def __init__(self, model: str, n_sequences: int, n_ctx: int) -> None:
        """Load the model.

        Raises:
            ServerFailed: a process ended; it has said why on standard error.
        """
        spawn = multiprocessing.get_context("spawn")
        start = (model, n_sequences, n_ctx)
        self._processes = [ProcessPoolExecutor(1, spawn, _load, start) for _ in range(CORES)]
        self._run(CORES, 1, [1] * CORES, 1)

    def speeds(
        self, lengths: Sequence[int], streams: Sequence[int], n: int, n_steps: int
    ) -> list[float]:
        """Tokens per second of each number of ``streams``: prompts, then ``n`` tokens of each.

        ``n_steps`` of the ``n`` are evaluated, the others computed. Streams are the first ones of
        ``lengths``, which are of prompts. The layout is one process with a thread for each core or
        a process for each core, whichever is faster.
        """
        columns = [
            [count * n / self._seconds(*layout, lengths[:count], n, n_steps) for count in streams]
            for layout in sorted({(1, CORES), (CORES, 1)})
        ]
        return list(map(max, zip(*columns, strict=True)))

    def _seconds(
        self, processes: int, threads: int, lengths: Sequence[int], n: int, n_steps: int
    ) -> float:
        found = self._run(processes, threads, lengths, n_steps)
        return max(prompts_s + n * step_s for prompts_s, step_s in found)

    def _run(
        self, processes: int, threads: int, lengths: Sequence[int], n_steps: int
    ) -> list[tuple[float, float]]:
        shares = [lengths[number::processes] for number in range(processes)]
        try:
            running = [
                process.submit(_run, threads, share, n_steps)
                for process, share in zip(self._processes, filter(None, shares), strict=False)
            ]
            return [each.result() for each in running]
        except BrokenProcessPool:
            raise ServerFailed("a process that runs llama.cpp's library has ended") from None

    def __enter__(self) -> "RawLibrary":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.shutdown()


class _Loop:
    """The sequences of one process."""

    def __init__(self, model: str, n_sequences: int, n_ctx: int) -> None:
        self._library = library = Library()
        self._c = c = library.c
        loaded = c.llama_model_load_from_file(model.encode(), library.model_params(load_mode=1))
        self._n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(loaded))
        params = library.context_params(
            n_ctx=n_ctx, n_batch=_BATCH, n_ubatch=_BATCH, n_seq_max=n_sequences, kv_unified=True,
            swa_full=False, n_threads=1, n_threads_batch=1,
        )  # fmt: skip
        self._context = c.llama_init_from_model(loaded, params)
        self._memory = c.llama_get_memory(self._context)
        self._rows = Rows(_BATCH)
        self._n_sequences = n_sequences
        self._clear()

    def _clear(self) -> None:
        for sequence in range(self._n_sequences):
            self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._ids = _any_ids(self._n_vocab)
        self._last: list[int] = []  # of each sequence, not evaluated
        self._ends: list[int] = []
        self._prompts_s = 0.0

    def run(self, threads: int, lengths: Sequence[int], n_steps: int) -> tuple[float, float]:
        """Seconds of all prompts, and seconds of a step.

        More ``lengths`` than in the call before go on with its sequences.
        """
        self._c.llama_set_n_threads(self._context, threads, threads)
        if len(lengths) <= len(self._ends):
            self._clear()
        started_s = time.perf_counter()
        for length in lengths[len(self._ends) :]:
            self._last.append(self._prompt(len(self._ends), list(islice(self._ids, length))))
            self._ends.append(length)
        steps_s = time.perf_counter()
        self._prompts_s += steps_s - started_s
        for _ in range(n_steps):
            self._step()
        return self._prompts_s, (time.perf_counter() - steps_s) / n_steps

    def _step(self) -> None:
        pairs = zip(self._ends, self._last, strict=True)
        rows = [(number, end, token) for number, (end, token) in enumerate(pairs)]
        self._decode(rows)
        self._last = [self._best(row) for row in range(len(rows))]
        self._ends = [end + 1 for end in self._ends]

    def _prompt(self, sequence: int, ids: Sequence[int]) -> int:
        for begin in range(0, len(ids), _BATCH):
            part = ids[begin : begin + _BATCH]
            self._decode([(sequence, begin + at, token) for at, token in enumerate(part)], 1)
        return self._best(0)

    def _decode(self, rows: Sequence[tuple[int, int, int]], n_wanted: int = _BATCH) -> None:
        """Evaluate sequence, position and token of each row; logits of the last ``n_wanted``."""
        sequences, positions, tokens = zip(*rows, strict=True)
        outputs = [row >= len(rows) - n_wanted for row in range(len(rows))]
        self._rows.fill(tokens, positions, sequences, outputs)
        if status := self._c.llama_decode(self._context, self._rows.batch):
            raise RuntimeError(f"llama_decode: {status}")

    def _best(self, row: int) -> int:
        """The likeliest token of a row, among those whose logits were wanted."""
        address = self._c.llama_get_logits(self._context) + row * self._n_vocab * _FLOAT_BYTES
        logits = (ctypes.c_float * self._n_vocab).from_address(address)
        return int(np.ctypeslib.as_array(logits).argmax())


_loop: _Loop  # of the process that runs it


def _load(model: str, n_sequences: int, n_ctx: int) -> None:
    global _loop
    # Whatever ends the benchmarks, this process is not left behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _loop = _Loop(model, n_sequences, n_ctx)


def _run(threads: int, lengths: Sequence[int], n_steps: int) -> tuple[float, float]:
    return _loop.run(threads, lengths, n_steps)


def _any_ids(n_vocab: int) -> Iterator[int]:
    source = np.random.default_rng(1)
    while True:
        yield int(source.integers(_FIRST_TOKEN, n_vocab))
