"""Streams over HTTP against the bare engine, which is nothing but evaluation and argmax."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from scripts.benchmarks.bare_engine import BareEngine
from scripts.benchmarks.setup import COMPLETIONS, CORES, RequestFailed, Setup
from scripts.client import play, request
from scripts.figures import Results, Series
from scripts.prompts import unlike_any
from scripts.transcript import outcome

STREAMS = (1, 2, 4, 8)
STORY = "{}. Once upon a time, in a small village by the sea, there lived"


def measure_throughput(setup: Setup, results: Results) -> None:
    """Add tokens per second of 1 to 8 streams, as ratios and as curves of both sides.

    Both sides get the same prompts, which they evaluate, and generate as many tokens. The bare side
    is whichever setting of processes and threads is best for the number of streams, by a round
    before; what it takes to tokenize and to pass tokens on is not counted for it.
    """
    n = setup.choose(128, 16)
    ours, theirs = (defaultdict[int, list[float]](list) for _ in range(2))
    best = dict[int, tuple[int, int]]()
    with ExitStack() as running:
        # No parked workers: the first use of each writes to fresh memory, as that of the bare
        # processes has done before the first round that counts.
        settings = {"ENGINE": "ctransformers", "WORKERS": str(CORES), "PARKED": "0"}
        server = running.enter_context(setup.serve(**settings))
        engines = [running.enter_context(BareEngine(setup.model)) for _ in range(CORES)]
        for number in range(setup.rounds + 1):
            for streams in STREAMS:
                prompts = [STORY.format(unlike_any()) for _ in range(streams)]
                over_http = _speed(server.port, prompts, n)
                if number == 0:
                    best[streams] = _best_setting(engines, prompts, n)
                    continue
                ours[streams].append(over_http)
                theirs[streams].append(_bare_speed(engines, best[streams], prompts, n))
    ratios = [
        statistics.median(a / b for a, b in zip(ours[streams], theirs[streams], strict=True))
        for streams in STREAMS
    ]
    listed = " / ".join(map(str, STREAMS))
    name = f"output tokens/s at {listed} streams ÷ bare engine processes at their best setting"
    results.add("throughput", name, *ratios, goal="≥ 0.97")
    for label, speeds_of in (("this server", ours), ("bare engine, best setting, no HTTP", theirs)):
        y = tuple(statistics.median(speeds_of[streams]) for streams in STREAMS)
        results.series.append(Series("throughput", label, STREAMS, y))
    settings_text = ", ".join(f"{s}: {k} x {t} threads" for s, (k, t) in best.items())
    results.notes.append(f"best setting of the bare engine, by streams: {settings_text}")


def _speed(port: int, prompts: Sequence[str], n: int) -> float:
    """Tokens per second of streams of ``n`` tokens for each prompt, all at once.

    The client only reads: on a machine whose cores all compute, each microsecond that it took for
    a token would be missing in the engine.

    Raises:
        RequestFailed: an answer has not ``n`` tokens.
    """
    bodies = [
        {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True} for prompt in prompts
    ]
    requests = [request("POST", COMPLETIONS, json.dumps(body).encode()) for body in bodies]
    started_s = time.monotonic()
    seen = [outcome(COMPLETIONS, answer, COMPLETIONS) for answer in play(port, requests)]
    for each in seen:
        if each.kind != "completed" or each.finish_reason != "length":
            raise RequestFailed(f"not {n} tokens: {each}")
    return len(prompts) * n / (max(each.ended_s for each in seen) - started_s)


def _best_setting(engines: Sequence[BareEngine], prompts: Sequence[str], n: int) -> tuple[int, int]:
    """The numbers of processes and of threads that give the most tokens per second."""
    settings = sorted({(1, 1), (1, CORES), (CORES, 1)})
    return max(settings, key=lambda setting: _bare_speed(engines, setting, prompts, n))


def _bare_speed(
    engines: Sequence[BareEngine], setting: tuple[int, int], prompts: Sequence[str], n: int
) -> float:
    """Output tokens per second of so many processes and threads; processes share prompts out."""
    processes, threads = setting

    def work(engine: BareEngine, share: Sequence[str]) -> float:
        runs = [engine.run(threads, prompt, n) for prompt in share]
        return sum(run["first_s"] + (n - 1) / run["speed"] for run in runs)

    shares = [prompts[number::processes] for number in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        return len(prompts) * n / max(pool.map(work, engines, shares))
