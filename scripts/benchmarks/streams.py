"""Streams over HTTP against the bare engine, which is nothing but evaluation and argmax."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from scripts.benchmarks.setup import (
    COMPLETIONS,
    CORES,
    BareEngine,
    RequestFailed,
    Setup,
    Target,
    serve_echo,
    ttft_of,
)
from scripts.client import play, request
from scripts.figures import Results, Series
from scripts.load.metrics import percentile
from scripts.prompts import unlike_any, words
from scripts.transcript import Outcome, outcome

STREAMS = (1, 2, 4, 8)
LENGTHS = (64, 256, 512, 1024, 1536)
"""Of prompts, in words, which is about tokens."""
_STORY = "{}. Once upon a time, in a small village by the sea, there lived"
_PAUSE_S = 0.02


def play_streams(port: int, prompts: Sequence[str], n: int) -> tuple[float, list[Outcome]]:
    """Stream ``n`` tokens for each prompt, all at once; seconds until the last is there, and all.

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
    seen = [outcome(COMPLETIONS, answer, COMPLETIONS, n) for answer in play(port, requests)]
    for each in seen:
        if each.kind != "completed" or each.finish_reason != "length":
            raise RequestFailed(f"not {n} tokens: {each}")
    return max(each.ended_s for each in seen) - started_s, seen


def measure_throughput(setup: Setup, results: Results) -> None:
    """Add tokens per second of 1 to 8 streams, as ratios and as curves of both sides.

    Both sides get the same prompts, which they evaluate, and generate as many tokens. The bare side
    is whichever setting of processes and threads is best for the number of streams, by a round
    before; what it takes to tokenize and to pass tokens on is not counted for it.
    """
    n = setup.choose(128, 16)
    ratios, ours, theirs = (defaultdict[int, list[float]](list) for _ in range(3))
    settings, best = sorted({(1, 1), (1, CORES), (CORES, 1)}), dict[int, tuple[int, int]]()
    with ExitStack() as running:
        # No parked workers: the first use of each writes to fresh memory, as that of the bare
        # processes has done before the first round that counts.
        server = running.enter_context(setup.serve(WORKERS=str(CORES), PARKED="0"))
        engines = [running.enter_context(BareEngine(setup.model)) for _ in range(CORES)]
        for number in range(setup.rounds + 1):
            for streams in STREAMS:
                prompts = [_STORY.format(unlike_any()) for _ in range(streams)]
                over_http = streams * n / play_streams(server.port, prompts, n)[0]
                if number == 0:
                    speeds = {s: bare_speed(engines[: s[0]], s[1], prompts, n) for s in settings}
                    best[streams] = max(speeds, key=lambda setting: speeds[setting])
                    continue
                k, threads = best[streams]
                bare = bare_speed(engines[:k], threads, prompts, n)
                ours[streams].append(over_http)
                theirs[streams].append(bare)
                ratios[streams].append(over_http / bare)
    middle = [statistics.median(ratios[streams]) for streams in STREAMS]
    listed = " / ".join(map(str, STREAMS))
    name = f"output tokens/s at {listed} streams ÷ bare engine processes at their best setting"
    results.add("throughput", name, *middle, goal="≥ 0.97")
    for label, speeds_of in (("this server", ours), ("bare engine, best setting, no HTTP", theirs)):
        y = tuple(statistics.median(speeds_of[streams]) for streams in STREAMS)
        results.series.append(Series("throughput", label, STREAMS, y))
    settings_text = ", ".join(f"{s}: {k} x {t} threads" for s, (k, t) in best.items())
    results.notes.append(f"best setting of the bare engine, by streams: {settings_text}")


def bare_speed(
    engines: Sequence[BareEngine], threads: int, prompts: Sequence[str], n: int
) -> float:
    """Output tokens per second of processes that share prompts out."""

    def work(engine: BareEngine, share: Sequence[str]) -> float:
        runs = [engine.run(threads, prompt, n) for prompt in share]
        return sum(run["first_s"] + (n - 1) / run["speed"] for run in runs)

    shares = [prompts[number :: len(engines)] for number in range(len(engines))]
    with ThreadPoolExecutor(len(engines)) as pool:
        return len(prompts) * n / max(pool.map(work, engines, shares))


def measure_lengths(setup: Setup, results: Results) -> None:
    """Add the curves of TTFT by prompt length, with and without reuse."""
    lengths = LENGTHS[: setup.choose(len(LENGTHS), 2)]
    with setup.serve() as server:
        target = Target("this server", server.url)
        pairs = [
            [cold_and_warm(target, n_words) for n_words in lengths]
            for _ in range(setup.choose(min(setup.rounds, 3), 1))
        ]
    for column, label in enumerate(("without reuse", "with reuse")):
        y = tuple(statistics.median(row[k][column] for row in pairs) for k in range(len(lengths)))
        results.series.append(Series("ttft", label, lengths, y))
    ratio = statistics.median(row[-1][1] / row[-1][0] for row in pairs)
    name = f"TTFT of {lengths[-1]} words, all but the last 8 words known ÷ nothing known"
    results.add("lengths", name, ratio)


def cold_and_warm(target: Target, n_words: int) -> tuple[float, float]:
    """Seconds to the first text of an unknown prompt, then of one that differs at its end only."""
    known = f"{unlike_any()} {words(n_words - 9)}"
    cold_s = ttft_of(target.complete(f"{known} {words(8, salt=3)}", 2))
    return cold_s, ttft_of(target.complete(f"{known} {words(8, salt=5)}", 2))


def measure_latency(setup: Setup, results: Results) -> None:
    """Add what stands between a client and the first token of an idle server.

    The time of the evaluation itself varies by more than what is looked for, so percentiles are of
    the echo engine, which needs next to none; the demo model shows the median of differences.
    """
    with serve_echo(1, 0) as server:
        times_ms = sorted(echo_ttft_ms(Target("echo", server.url), setup.choose(600, 60)))
    for percent, goal in ((50, "≤ 1"), (99, "≤ 3")):
        name = f"TTFT of an idle server, echo engine, p{percent}"
        results.add("latency", name, percentile(times_ms, percent), unit="ms", goal=goal)
    differences_ms = []
    # One worker, as there is one bare process: the first use of each writes to fresh memory.
    with setup.serve(WORKERS="1", PARKED="0") as server, BareEngine(setup.model) as bare:
        target = Target("this server", server.url)
        for number in range(setup.choose(5 * setup.rounds, 5) + 1):
            # Another first token each time, so that the server has nothing in its cache either.
            prompt = _STORY.format(unlike_any())
            inside_s = bare.run(CORES, prompt, 4)["first_s"]
            if number:
                differences_ms.append((ttft_of(target.complete(prompt, 4)) - inside_s) * 1e3)
    name = "TTFT over HTTP minus in-process prefill, demo model, 17 tokens, median of pairs"
    results.add("latency", name, statistics.median(differences_ms), unit="ms", goal="≤ 3")


def echo_ttft_ms(target: Target, n: int, pause_s: float = _PAUSE_S) -> list[float]:
    """Milliseconds to the first text, again and again, a pause before each.

    So the server is idle: nothing is warmer than a user who comes alone would find it.
    """
    times_ms = []
    for number in range(n + 20):
        time.sleep(pause_s)
        seen = target.complete(f"{unlike_any()} there was a sea", 2)
        if number >= 20:
            times_ms.append(ttft_of(seen) * 1e3)
    return times_ms
