"""Tokens in a second of 1, 2, 4 and 8 streams, against processes of the bare engine."""

import json
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from gateway import machine
from scripts.bench_sides import InProcess, Server
from scripts.benchmarks.results import Results, Series
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import Connection, RequestFailed, Target, checked, unlike_any
from scripts.load.outcome import Outcome

STREAMS = (1, 2, 4, 8)
PROMPT = "{}. Once upon a time, in a small village by the sea, there lived"


def measure(setup: Setup, results: Results) -> None:
    """Add the ratios, and the curves of both sides.

    Both sides get the same prompts, which they evaluate, and generate as many tokens. The bare side
    is whichever setting of processes and threads is best for the number of streams, by a round
    before; what it takes to tokenize and to pass tokens on is not counted for it.
    """
    cores, n = machine.usable_cores(), setup.choose(128, 16)
    with ExitStack() as running:
        # No parked workers: the first use of each writes to fresh memory, as that of the bare
        # processes has done before the first round that counts.
        server = running.enter_context(
            Server(MODEL_NAME=str(setup.model), WORKERS=str(cores), PARKED="0")
        )
        processes = [running.enter_context(InProcess(setup.model)) for _ in range(cores)]
        settings = sorted({(1, 1), (1, cores), (cores, 1)})
        best: dict[int, tuple[int, int]] = {}
        ratios, ours, theirs = (defaultdict[int, list[float]](list) for _ in range(3))
        for number in range(setup.rounds + 1):
            for streams in STREAMS:
                prompts = [PROMPT.format(unlike_any()) for _ in range(streams)]
                if number == 0:
                    speeds = {s: bare_speed(processes[: s[0]], s[1], prompts, n) for s in settings}
                    best[streams] = max(speeds, key=lambda setting: speeds[setting])
                    raw_speed(server.port, prompts, n)
                    continue
                k, threads = best[streams]
                over_http = raw_speed(server.port, prompts, n)
                bare = bare_speed(processes[:k], threads, prompts, n)
                ours[streams].append(over_http)
                theirs[streams].append(bare)
                ratios[streams].append(over_http / bare)
    middle = [statistics.median(ratios[streams]) for streams in STREAMS]
    listed = " / ".join(map(str, STREAMS))
    name = f"output tokens/s at {listed} streams ÷ bare engine processes at their best setting"
    results.add("throughput", name, *middle, goal="≥ 0.97")
    curves = ("this server", ours), ("bare engine, best setting, no HTTP", theirs)
    for label, speeds_of in curves:
        y = tuple(statistics.median(speeds_of[streams]) for streams in STREAMS)
        results.series.append(Series("throughput", label, STREAMS, y))
    settings_text = ", ".join(f"{s}: {k} x {t} threads" for s, (k, t) in best.items())
    results.notes.append(f"best setting of the bare engine, by streams: {settings_text}")


def raw_speed(port: int, prompts: Sequence[str], n: int) -> float:
    """Output tokens in a second of streams to this machine's ``port``, a prompt each, all at once.

    The client only reads: on a machine whose cores all compute, each microsecond that it took for
    a token would be missing in the engine.

    Raises:
        RequestFailed: an answer has not ``n`` tokens.
    """
    started = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        for _ in pool.map(partial(_read_to_end, port, n), prompts):
            pass
    return len(prompts) * n / (time.perf_counter() - started)


def _read_to_end(port: int, n: int, prompt: str) -> None:
    content = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True}
    body = json.dumps(content).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    pieces = []
    with socket.create_connection(("127.0.0.1", port), timeout=300.0) as connection:
        connection.sendall(head.encode() + body)
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    answer = b"".join(pieces)
    if b'"finish_reason":"length"' not in answer or b"data: [DONE]" not in answer:
        raise RequestFailed(f"not {n} tokens, but {answer[-300:]!r}")


def http_speed(target: Target, prompts: Sequence[str], n: int) -> float:
    """Output tokens in a second of a stream for each prompt, all at once.

    Raises:
        RequestFailed: a request was not answered.
    """
    works = [partial(_complete, prompt=prompt, n=n) for prompt in prompts]
    elapsed_s, outcomes = target.side_by_side(works)
    return sum(checked(outcome).completion_tokens for outcome in outcomes) / elapsed_s


def _complete(connection: Connection, prompt: str, n: int) -> Outcome:
    return connection.complete(prompt, n)


def bare_speed(
    processes: Sequence[InProcess], threads: int, prompts: Sequence[str], n: int
) -> float:
    """The same of processes that share the prompts out, each with ``threads`` threads."""

    def work(process: InProcess, share: Sequence[str]) -> float:
        busy_s = 0.0
        for prompt in share:
            first_s, speed = process.run("bare", threads, prompt, n)
            busy_s += first_s + (n - 1) / speed
        return busy_s

    shares = [prompts[number :: len(processes)] for number in range(len(processes))]
    with ThreadPoolExecutor(len(processes)) as pool:
        return len(prompts) * n / max(pool.map(work, processes, shares))
