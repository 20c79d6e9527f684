"""What processes cost: memory and start of workers, CPU time, memory and stalls of the gateway."""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from scripts.benchmarks.setup import CHAT, COMPLETIONS, CORES, Setup, Target, serve_echo
from scripts.client import Answer, Connection, play, request
from scripts.figures import Results, Series
from scripts.processes import cpu_seconds, footprint, mib, peak_mib
from scripts.prompts import unlike_any, words
from scripts.server import START_S, Server, environment, launch
from scripts.transcript import outcome

_MB = (1 << 20) / 1e6
PARKED = 16
# Parked workers keep conversations where workers have no slots.
_OF_CONVERSATIONS = {"ENGINE": "ctransformers"}
STREAMS = (1, 2, 8, 32, 128, 500)
_DELAY_MS = 50.0
_MIB = 1 << 20
_STALL_REPEATS = 5


def measure_workers(setup: Setup, results: Results) -> None:
    """Add memory and start times of workers that keep conversations, and the curve of memory."""
    n_parked = setup.choose(PARKED, 3)
    series: list[tuple[float, float]] = []
    for parked in sorted({0, n_parked // 4, n_parked // 2, n_parked}):
        settings = {**_OF_CONVERSATIONS, "WORKERS": str(CORES), "PARKED": str(parked)}
        with setup.serve(**settings) as server:
            pids = server.worker_pids()
            when_ready = [mib(pid, "Private_") * _MB for pid in pids]
            size = _hold_chats(server, len(pids))
            pids = server.worker_pids()
            after = sorted(mib(pid, "Private_") * _MB for pid in pids)
            series.append((len(pids), pss_mib(server) * _MB))
    add = partial(results.add, "workers", unit="MB", digits=1)
    add("private memory of a worker when ready, median", statistics.median(when_ready))
    name = f"the same after a chat of {size:.0f} tokens: median / most of {len(after)}"
    add(name, statistics.median(after), after[-1], goal="≤ 40")
    x, y = zip(*sorted(dict(series).items()), strict=True)
    results.series.append(Series("memory", f"after chats of {size:.0f} tokens", x, y))
    first_s, rest_s, n_rest = _start_times(setup.model, CORES, n_parked)
    name = "the first worker ready after (the model is loaded)"
    results.add("workers", name, first_s * 1e3, unit="ms", digits=0)
    name = f"{n_rest} more of them ready after"
    results.add("workers", name, rest_s * 1e3, unit="ms", digits=0, goal="≤ 1000")


def pss_mib(server: Server) -> float:
    """Memory of all processes of a server, what they share counted once."""
    return sum(mib(pid, "Pss:") for pid in server.processes())


def _hold_chats(server: Server, n_workers: int) -> float:
    """Give each worker a conversation of about 200 tokens; returns their median."""
    sizes: list[int] = []

    def work(to: Target, n: int) -> None:
        for number in range(n):
            system = {"role": "system", "content": f"{unlike_any()} {words(168, salt=number)}"}
            seen = to.chat([system, {"role": "user", "content": words(8)}], 8)
            sizes.append(seen.prompt_tokens + seen.completion_tokens)

    # More chats than workers, so that each has had one whichever the scheduler takes.
    target = Target("this server", server.url)
    target.side_by_side([partial(work, n=n_workers - n_workers // 2), partial(work, n=n_workers)])
    return statistics.median(sizes)


def _start_times(model: str, workers: int, parked: int) -> tuple[float, float, int]:
    """Seconds to the first ready worker, from there to the last, and how many these were.

    Raises:
        ServerFailed: a worker was not ready in time.
    """
    settings = {"MODEL_NAME": model, "WORKERS": str(workers), "PARKED": str(parked)}
    settings |= _OF_CONVERSATIONS
    started_s = time.monotonic()
    server = Server(launch(env=environment(LOG_LEVEL="warning", **settings)))
    try:
        server.wait_until_ready()
        server.wait_until(lambda status: "idle" in _states(status), START_S)
        first_s = time.monotonic()
        status = server.wait_until(lambda status: set(_states(status)) == {"idle"}, START_S)
        return first_s - started_s, time.monotonic() - first_s, len(_states(status)) - 1
    finally:
        server.kill()


def _states(status: dict[str, Any]) -> list[str]:
    return [worker["state"] for worker in status["workers"]]


@dataclass(frozen=True)
class Cost:
    """What streams cost the gateway."""

    us_per_token: float  #: CPU time for each further token of a stream, in microseconds
    us_per_request: float  #: CPU time for a stream of one token, in microseconds
    events_per_token: float  #: less than 1 where several tokens went out as one event
    kib_per_stream: float  #: what the gateway's memory grew by for each stream, at most
    errors: int  #: streams that did not end well


def cost(server: Server, n: int, tokens: int) -> Cost:
    """Run ``n`` streams of ``tokens`` tokens each, all at once, on a server with echo workers."""
    _streams(server, min(n, 8), 8, 8)
    cpu, held_mib = [cpu_seconds(server.pid)], footprint(server.pid).rss_mib
    seen = []
    for length in (tokens, 1):
        seen.append(_streams(server, n, length, tokens))
        cpu.append(cpu_seconds(server.pid))
    grown_mib = peak_mib(server.pid) - held_mib
    outcomes = [outcome(COMPLETIONS, each, COMPLETIONS) for answers in seen for each in answers]
    whole_s, begun_s = cpu[1] - cpu[0], cpu[2] - cpu[1]
    events = sum(each.body.count(b"\n\n") for each in seen[0])
    return Cost(
        us_per_token=(whole_s - begun_s) / (n * (tokens - 1)) * 1e6,
        us_per_request=begun_s / n * 1e6,
        # The end of a generation and the end of the stream are events, too.
        events_per_token=(events - 2 * n) / (n * tokens),
        kib_per_stream=grown_mib * 1024 / n,
        errors=sum(each.kind != "completed" for each in outcomes),
    )


def _streams(server: Server, n: int, tokens: int, length: int) -> list[Answer]:
    """The answers to ``n`` prompts of ``length`` letters, of ``tokens`` tokens each."""
    bodies = [
        {"prompt": f"{number:05}".ljust(max(tokens, length), "x"), "stream": True,
         "max_tokens": tokens, "temperature": 0}
        for number in range(n)
    ]  # fmt: skip
    contents = [request("POST", COMPLETIONS, json.dumps(body).encode()) for body in bodies]
    return play(server.port, contents, 120.0)


def measure_gateway(setup: Setup, results: Results) -> None:
    """Add CPU time per token against streams, memory of many streams, and the longest stall."""
    streams, tokens = STREAMS[: setup.choose(len(STREAMS), 3)], setup.choose(200, 20)
    costs = []
    for n in streams:
        with serve_echo(n, _DELAY_MS, n) as server:
            costs.append(cost(server, n, tokens))
    label = f"echo engine, {1000 / _DELAY_MS:.0f} tokens/s each"
    us_per_token = tuple(each.us_per_token for each in costs)
    results.series.append(Series("cpu", label, streams, us_per_token))
    add, most = partial(results.add, "gateway"), costs[-1]
    name = f"gateway CPU per streamed token, {streams[-1]} echo streams at once"
    add(name, most.us_per_token, unit="µs", digits=0, goal="≤ 30")
    add("the same: events per token", most.events_per_token)
    name = "tokens that a second of the gateway's CPU time carries, by the same"
    add(name, 1e6 / most.us_per_token, digits=0, goal="≥ 30,000")

    workers, n_open = setup.choose(128, 8), setup.choose(2000, 50)
    with serve_echo(workers, 10.0, n_open) as server:
        many = cost(server, n_open, setup.choose(20, 5))
    add(f"{n_open:,} open streams on {workers} workers: errors", many.errors, digits=0, goal="≤ 0")
    name = "the same: gateway memory for each"
    add(name, many.kib_per_stream * 1.024, unit="KB", digits=0, goal="≤ 50")
    longest = _stalls()
    name = "longest stall while bodies of 1 MB arrive, of all kinds"
    add(name, max(longest.values()), unit="ms", digits=1, goal="≤ 20")
    add("the same, while none arrive", longest["nothing"], unit="ms")


def _large_bodies() -> dict[str, tuple[str, bytes]]:
    """Bodies of a megabyte, each with where it is sent, by what is in them."""
    message = {"role": "user", "content": "x" * 60}
    parts = [{"type": "text", "text": ""}] * 30_000
    contents: dict[str, tuple[str, object]] = {
        "one long message": (CHAT, {"messages": [{**message, "content": "é" * (_MIB // 6 - 20)}]}),
        "10,000 messages": (CHAT, {"messages": [message] * 10_000}),
        "30,000 parts": (CHAT, {"messages": [{**message, "content": parts}]}),
        "10,000 conversations": ("/v2/chat/completions", {"messages": [[message]] * 10_000}),
        "special tokens": (COMPLETIONS, {"prompt": "<|im_end|>" * (_MIB // 10 - 10)}),
        "200,000 prompts": (COMPLETIONS, {"prompt": ["x"] * 200_000}),
        "70,000 objects": (COMPLETIONS, {"prompt": {str(i): {} for i in range(70_000)}}),
    }
    bodies = {name: (path, json.dumps(body).encode()) for name, (path, body) in contents.items()}
    return {
        "nothing": (COMPLETIONS, b""),
        **bodies,
        "not JSON": (COMPLETIONS, b'{"prompt":"' + b"x" * _MIB),
        "deep nesting": (COMPLETIONS, b'{"prompt":' + b"[" * _MIB),
    }


def _stalls() -> dict[str, float]:
    """The longest answer of ``/health`` in milliseconds, while bodies of each kind arrive.

    ``nothing`` is what the machine does to it while none do.
    """
    longest = {}
    settings = {"CHAT_TEMPLATE": "chatml", "CONTEXT_LENGTH": str(_MIB)}
    with serve_echo(2, 0, 8, **settings) as server, ThreadPoolExecutor(1) as sender:
        sending, probe = Connection(server.url), Connection(server.url)

        def send(path: str, body: bytes) -> None:
            for _ in range(_STALL_REPEATS):
                sending.exchange(Answer(time.monotonic()), "POST", path, body)
                time.sleep(0.1)

        for name, (path, body) in _large_bodies().items():
            sent, times_ms = sender.submit(send, path, body), list[float]()
            while not sent.done():
                started_s = time.perf_counter()
                probe.get("/health")
                times_ms.append((time.perf_counter() - started_s) * 1e3)
                time.sleep(0.001)
            longest[name] = max(times_ms)
    return longest
