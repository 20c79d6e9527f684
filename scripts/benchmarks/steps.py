"""What a step costs beside the evaluation: the whole Python side of one, and drawing a token."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np

from scripts.benchmarks.setup import N_CTX, Setup
from scripts.figures import Results
from shared.config import WorkerConfig
from shared.encoding import encode
from shared.messages import Generate
from shared.sampling import SamplingParams
from worker.engines.llamacpp import LlamaCppEngine
from worker.loop import Loop
from worker.pipes import Inbox, Outbox
from worker.sampling.sampler import Sampler

_ROWS = 8
_SMALL, _LARGE = 49_152, 262_144
_OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
_KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "defaults (top_k 40, top_p 0.95, min_p 0.05)": {},
    "min_p 0.05 alone": {**_OFF, "min_p": 0.05},
    "top_p 0.95 alone": {**_OFF, "top_p": 0.95},
    "temperature alone": _OFF,
}
# A row, of the larger vocabulary too.
_GOALS_US = {"greedy": "≤ 60", "defaults (top_k 40, top_p 0.95, min_p 0.05)": "≤ 150",
             "min_p 0.05 alone": "≤ 150"}  # fmt: skip


def measure_steps(setup: Setup, results: Results) -> None:
    """Add the milliseconds of a step of 8 rows, and the microseconds of a draw."""
    steps = _Steps(setup.model)
    for kind in list(_KINDS)[:2]:
        ms = 1000 * steps.beside_evaluation_s(setup.choose(60, 8), _KINDS[kind])
        n_vocab = steps.n_vocab
        goal = "≤ 0.6" if n_vocab <= 65_536 else "≤ 1.6"
        name = f"a step of {_ROWS} rows without `llama_decode`, vocabulary {n_vocab:,}, {kind}"
        results.add("step", name, ms, unit="ms", goal=goal)
    gaps = steps.gaps_beside_a_prompt(setup.choose(250, 100))
    name = "a gap between tokens of 4 streams while a prompt is read ÷ usual: median / 95th in 100"
    results.add("step", name, *np.percentile(gaps, [50, 95]).tolist(), goal="≤ 2.5")
    for kind, fields in _KINDS.items():
        us = [1e6 * _draw_s(n, setup.choose(300, 20), fields) for n in (_SMALL, _LARGE)]
        name = f"a draw, vocabulary {_SMALL:,} / {_LARGE:,}, {kind}"
        results.add("step", name, *us, unit="µs", digits=0, goal=_GOALS_US.get(kind, ""))


class _Steps:
    """A decode loop with the model and one thread, between pipes of this process.

    What is measured is CPU time, which what else runs on the machine prolongs the least.
    """

    def __init__(self, model: str) -> None:
        self._engine = LlamaCppEngine(WorkerConfig("llamacpp", model, slots=_ROWS, n_ctx=N_CTX))
        self.n_vocab = self._engine.info.n_vocab
        self._evaluating_s = 0.0
        library: Any = self._engine._c
        decode: Callable[..., int] = library.llama_decode

        def timed(*arguments: Any) -> int:
            began_s = time.thread_time()
            status = decode(*arguments)
            self._evaluating_s += time.thread_time() - began_s
            return status

        library.llama_decode = timed
        commands, self._commands = os.pipe()
        self._events, events = os.pipe()
        os.set_blocking(self._events, False)
        self._loop = Loop(self._engine, 1, Inbox(commands), Outbox(events))

    def beside_evaluation_s(self, n: int, fields: dict[str, Any]) -> float:
        """Seconds of the median step of those in which all rows decode."""
        for slot in range(_ROWS):
            self._begin(slot, 8, n, SamplingParams(**{"seed": 1, **fields}))
        times: list[float] = []
        while not times or self._loop._sequences:
            self._evaluating_s = 0.0
            times.append(self._step() - self._evaluating_s)
        return median(times[n // 4 : -n // 4])

    def gaps_beside_a_prompt(self, n: int) -> list[float]:
        """Seconds of each step of 4 streams while ``n`` tokens are read, ÷ those before."""
        greedy = SamplingParams(temperature=0.0)
        for slot in range(4):
            self._begin(slot, 8, n, greedy)
        usual_s = median([self._step() for _ in range(24)][4:])
        self._begin(_ROWS - 1, n, 1, greedy)
        gaps = [self._step()]
        while _ROWS - 1 in self._loop._sequences:
            gaps.append(self._step())
        while self._loop._sequences:
            self._step()
        return [gap_s / usual_s for gap_s in gaps]

    def _begin(self, slot: int, n_prompt: int, n: int, sampling: SamplingParams) -> None:
        source = np.random.default_rng(1000 * n_prompt + slot)
        ids = tuple(source.integers(100, 20_000, n_prompt).tolist())
        request = Generate(f"{slot}", ids, sampling, max_tokens=n, ignores_eog=True, slot=slot)
        os.write(self._commands, encode(request) + b"\n")

    def _step(self) -> float:
        began_s = time.thread_time()
        self._loop.step()
        taken_s = time.thread_time() - began_s
        with suppress(BlockingIOError):  # where no character is whole yet
            os.read(self._events, 1 << 20)
        return taken_s


def _draw_s(n_vocab: int, n: int, fields: dict[str, Any]) -> float:
    """Seconds of a draw, the least of ``n``; some tokens stand out, as they do in a text."""
    sampler = Sampler(SamplingParams(**{"seed": 1, **fields}), ())
    source, shape = np.random.default_rng(1), (_ROWS, n_vocab)
    rows = (2 * source.standard_normal(shape) + source.exponential(1.5, shape)).astype(np.float32)
    times = []
    for number in range(n):
        row, began_s = rows[number % _ROWS], time.perf_counter()
        sampler.sample(row)
        times.append(time.perf_counter() - began_s)
    return min(times)
