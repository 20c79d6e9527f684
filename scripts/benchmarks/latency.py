"""What gateway and pool add to the time to first token of an idle server."""

import json
import re
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from gateway import machine
from scripts.bench_sides import ROOT, InProcess, Server
from scripts.benchmarks.results import Results
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import RequestFailed, unlike_any
from scripts.load.metrics import percentile
from shared.config import WorkerConfig

SMALL_MODEL = ROOT / "tests" / "models" / "llama-gqa.gguf"
"""A real model that computes in a fraction of a millisecond, so that what is added shows."""
_PAUSE_S = 0.02
_N_CTX = 256
_TEXT = re.compile(rb'"text": ?"[^"]')


def measure(setup: Setup, results: Results) -> None:
    """Add what stands between a client and the first token of an idle server.

    The time of the evaluation itself varies by more than what is looked for, so percentiles of
    both sides are compared where it is next to nothing: with the echo engine, and with a real
    model of two small layers. The demo model shows the median of paired differences.
    """
    n = setup.choose(600, 60)
    for what, engine, path in (
        ("echo engine", "echo", ""),
        ("small model", "ctransformers", str(SMALL_MODEL)),
    ):
        config = WorkerConfig(engine, path, n_ctx=_N_CTX)
        kind = "echo" if engine == "echo" else ""
        with Server(
            n_ctx=_N_CTX, WORKERS="1", THREADS="1", MODEL_TYPE=kind, MODEL_NAME=path
        ) as server:
            over_http, inside = [], []
            first_token = in_process(config)
            client = RawClient(server.port)
            for number in range(n + 20):
                # Idle: nothing is warmer than a user who comes alone would find it.
                time.sleep(_PAUSE_S)
                prompt = f"{unlike_any()} there was a sea"
                http_s, inside_s = client.first_text(prompt), first_token(prompt)
                if number >= 20:
                    over_http.append(http_s * 1e3)
                    inside.append(inside_s * 1e3)
            client.close()
        for percent, goal in ((50, "≤ 1"), (99, "≤ 3")):
            added = percentile(sorted(over_http), percent) - percentile(sorted(inside), percent)
            name = f"TTFT added by gateway and pool, idle server, {what}, p{percent}"
            results.add("latency", name, added, unit="ms", goal=goal)
    results.add(
        "latency",
        "TTFT over HTTP minus in-process prefill, demo model, 17 tokens, median of pairs",
        paired_difference_ms(setup.model, setup.choose(5 * setup.rounds, 5)),
        unit="ms",
        goal="≤ 3",
    )


class RawClient:
    """A kept connection that adds next to nothing of its own: one send, and reads until text comes.

    What an HTTP library for Python takes is no cost of the server's.
    """

    def __init__(self, port: int) -> None:
        """Connect to this machine's ``port``."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def first_text(self, prompt: str) -> float:
        """Seconds to the first text of a completion, which is read to its end.

        Raises:
            RequestFailed: it has no text.
        """
        body = json.dumps({"prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        request = f"{head}\r\nContent-Type: application/json\r\n\r\n{body}".encode()
        started, elapsed, seen = time.perf_counter(), 0.0, b""
        self._socket.sendall(request)
        while not seen.endswith(b"\r\n0\r\n\r\n"):
            piece = self._socket.recv(1 << 16)
            now = time.perf_counter()
            seen += piece
            if not piece or b"\r\ncontent-length:" in seen:
                raise RequestFailed(f"no stream, but {seen[-300:]!r}")
            if not elapsed and _TEXT.search(seen):
                elapsed = now - started
        if not elapsed:
            raise RequestFailed(f"no text in {seen[-300:]!r}")
        return elapsed

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def in_process(config: WorkerConfig) -> Callable[[str], float]:
    """A function that tokenizes, evaluates and samples one token, and tells the seconds."""
    from worker import engines
    from worker.engines.base import SlotTokens

    engine = engines.load(config)

    def first_token(prompt: str) -> float:
        started = time.perf_counter()
        ids = engine.tokenize((prompt,))
        done = engine.reuse_prefix(0, ids)
        while done < len(ids):
            chunk = ids[done : done + engine.chunk_size(0)]
            (logits,) = engine.forward([SlotTokens(0, chunk)], 1)
            done += len(chunk)
        assert logits is not None
        engine.token_bytes(int(logits.argmax()))
        return time.perf_counter() - started

    return first_token


def paired_difference_ms(model: Path, n: int) -> float:
    """The median of TTFT over HTTP minus that of the bare engine, prompt by prompt."""
    cores = machine.usable_cores()
    # One worker, as there is one bare process: the first use of each writes to fresh memory.
    with Server(MODEL_NAME=str(model), WORKERS="1", PARKED="0") as server, InProcess(model) as bare:
        differences = []
        for number in range(n + 1):
            # Another first token each time, so that the server has nothing in its cache either.
            prompt = f"{unlike_any()}. Once upon a time, in a small village by the sea, there lived"
            inside, _ = bare.run("bare", cores, prompt, 4)
            over_http, _ = server.run(prompt, 4)
            if number:
                differences.append((over_http - inside) * 1e3)
    return statistics.median(differences)
