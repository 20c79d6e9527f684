"""Streams over HTTP against the bare engine: throughput, and the time to the first token."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from scripts.benchmarks.setup import (
    COMPLETIONS,
    CORES,
    BareEngine,
    RequestFailed,
    Setup,
    Target,
    serve_echo,
    side_by_side,
    speed_of,
    ttft_of,
)
from scripts.client import play, request
from scripts.figures import Results, Series
from scripts.load.metrics import percentile
from scripts.processes import cpu_seconds
from scripts.prompts import unlike_any, words
from scripts.server import Server
from scripts.transcript import Outcome, outcome

STREAMS = (1, 2, 4, 8)
LENGTHS = (64, 256, 512, 1024, 1536)
"""Of prompts, in words, which is about tokens."""
_STORY = "{}. Once upon a time, in a small village by the sea, there lived"
_PAUSE_S = 0.02


def measure_single(setup: Setup, results: Results) -> None:
    """Add the figures of one and two streams, and of the gateway's CPU time meanwhile.

    ``generate`` is ctransformers' own loop with its own sampler, ``bare`` nothing but evaluation
    and argmax, which no server can beat.
    """
    n, seen = setup.choose(128, 32), defaultdict[str, list[float]](list)
    with (
        setup.serve() as server,
        BareEngine(setup.model) as a,
        BareEngine(setup.model) as b,
    ):
        for number in range(setup.rounds + 1):
            found = _single_round(server, a, b, number, n)
            for name, value in found.items() if number else ():  # the first one warms up
                seen[name].append(value)
    middle = {name: statistics.median(values) for name, values in seen.items()}
    add = partial(results.add, "single")
    one_stream = f"one stream over HTTP ({middle['one']:.0f} tokens/s)"
    add(f"{one_stream} ÷ ctransformers' `generate`", middle["generate"], goal="≥ 0.97")
    add("one stream over HTTP ÷ bare evaluation and argmax", middle["bare"])
    two_streams = f"two streams over HTTP ({middle['two']:.0f} tokens/s)"
    add(f"{two_streams} ÷ two bare processes", middle["two bare"], goal="≥ 0.95")
    add("two streams ÷ one stream", middle["scale"], goal="≥ 1.35")
    add("two bare processes ÷ one with all cores, the bound of that", middle["bound"])
    name = "gateway CPU per streamed token: one stream / two"
    add(name, middle["cpu"], middle["cpu two"], unit="µs", digits=0, goal="≤ 100")


def _single_round(
    server: Server, a: BareEngine, b: BareEngine, number: int, n: int
) -> dict[str, float]:
    prompts = [_STORY.format(f"{number} {side}") for side in "abc"]

    def bare(engine: BareEngine, loop: str, threads: int, prompt: str) -> float:
        return engine.run(loop, threads, prompt, n)["speed"]

    library = bare(a, "generate", CORES, prompts[0])
    cpu_s = cpu_seconds(server.pid)
    one = sum(decode_speeds(server.port, prompts[:1], n))
    cpu_one_s = cpu_seconds(server.pid) - cpu_s
    alone = bare(a, "bare", CORES, prompts[0])
    two_bare = side_by_side(
        partial(bare, a, "bare", 1, prompts[1]), partial(bare, b, "bare", 1, prompts[2])
    )
    cpu_s = cpu_seconds(server.pid)
    two = sum(decode_speeds(server.port, prompts[1:], n))
    cpu_two_s = cpu_seconds(server.pid) - cpu_s
    return {
        "one": one, "two": two, "generate": one / library, "bare": one / alone,
        "two bare": two / two_bare, "scale": two / one, "bound": two_bare / alone,
        "cpu": cpu_one_s / n * 1e6, "cpu two": cpu_two_s / (2 * n) * 1e6,
    }  # fmt: skip


def decode_speeds(port: int, prompts: Sequence[str], n: int) -> list[float]:
    """Tokens per second of each of some streams at once, after its first token."""
    return [speed_of(seen) for seen in play_streams(port, prompts, n)[1]]


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
        runs = [engine.run("bare", threads, prompt, n) for prompt in share]
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
            inside_s = bare.run("bare", CORES, prompt, 4)["first_s"]
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
