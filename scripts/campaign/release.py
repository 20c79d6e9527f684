"""How soon a worker is free when its client goes."""

import json
import random
import socket
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from scripts.campaign.asks import COMPLETIONS
from scripts.client import Connection, request
from scripts.prompts import Prompts
from scripts.server import Server, ServerFailed
from scripts.transcript import outcome

_POLL_S = 0.002
# The threads of an evaluation wait for one another, so that whoever asks slows it down: nobody
# asks before most of what the worker has to end is over.
_SILENT_SHARE = 0.8
_FREE_WITHIN_S = 30.0
_N_WORDS = 120
_CHUNK_TOKENS = 32
_N_TIMED, _TIMED_TOKENS = 9, 40


def measure_release(server: Server, model: str, n: int, has_chunks: bool) -> dict[str, list[float]]:
    """Leave ``n`` streams in the middle, and half as many requests before their first token.

    Returns:
        Milliseconds from the close of the connection to a free worker: ``decode`` and, if the
        evaluation of a prompt takes time at all, ``prefill``; what is free before 0.8 of a token or
        chunk counts as that. Beside them what ``token`` and ``chunk`` (32 tokens) take.

    Raises:
        ServerFailed: a request is not answered, or a worker not free, in time.
    """
    prompts, source = Prompts(7, _N_WORDS), random.Random(7)
    common = {"model": model, "temperature": 0, "stream": True}
    times: dict[str, list[float]] = {"token": [], "chunk": [], "decode": [], "prefill": []}
    probe = Connection(server.url, timeout_s=_FREE_WITHIN_S)
    for number in range(_N_TIMED):
        body = {**common, "prompt": prompts.text("timed", number), "max_tokens": _TIMED_TOKENS}
        gaps_ms, chunk_ms = _time(probe, body)
        times["token"] += gaps_ms
        times["chunk"].append(chunk_ms)
    for number in range(n):
        body = {**common, "prompt": prompts.text("decode"), "max_tokens": 400}
        unit_ms = median(times["token"])
        after_s = source.uniform(0, unit_ms) / 1e3
        times["decode"].append(_leave(server, probe, body, 4 + number % 8, after_s, unit_ms))
    for number in range(n // 2 if has_chunks else 0):
        body = {**common, "prompt": prompts.text("left", number), "max_tokens": 2}
        unit_ms = median(times["chunk"])
        after_s = source.uniform(0, unit_ms) / 1e3
        times["prefill"].append(_leave(server, probe, body, 0, after_s, unit_ms))
    probe.close()
    return times


def _time(connection: Connection, body: dict[str, Any]) -> tuple[list[float], float]:
    """The milliseconds from token to token of a stream, and those of a chunk of its prompt."""
    answer = connection.post(COMPLETIONS, {**body, "stream_options": {"include_usage": True}})
    seen = outcome("timed", answer, COMPLETIONS)
    if not seen.has_usage:
        raise ServerFailed(f"a stream has no usage: {answer.body[-300:]!r}")
    n_chunks = max(1, seen.prompt_tokens - seen.cached_tokens) / _CHUNK_TOKENS
    # The head of a response comes as soon as its prompt has been evaluated.
    chunk_ms = (answer.raw[0][0] - answer.began_s) * 1e3 / n_chunks
    return [gap_s * 1e3 for gap_s in seen.gaps_s], chunk_ms


def _leave(
    server: Server,
    probe: Connection,
    body: dict[str, Any],
    pieces: int,
    after_s: float,
    unit_ms: float,
) -> float:
    """Go ``after_s`` seconds after so many pieces of a stream; the milliseconds until all is free.

    With no pieces it goes before the answer begins. What the worker cannot interrupt takes
    ``unit_ms``.
    """
    with socket.create_connection(("127.0.0.1", server.port), _FREE_WITHIN_S) as connection:
        connection.sendall(request("POST", COMPLETIONS, json.dumps(body).encode()))
        for _ in range(pieces):
            if not connection.recv(1 << 16):
                raise ServerFailed("a stream ends before its client goes")
        if not pieces:
            _until(probe, lambda status: status["running"] == 1, "a request does not run")
        time.sleep(after_s)
    left_s = time.monotonic()
    time.sleep(_SILENT_SHARE * unit_ms / 1e3)
    what = "a worker is not free though its client has gone"
    _until(probe, lambda status: status["running"] == status["waiting"] == 0, what)
    return (time.monotonic() - left_s) * 1e3


def _until(probe: Connection, condition: Callable[[Any], bool], otherwise: str) -> None:
    deadline_s = time.monotonic() + _FREE_WITHIN_S
    while not condition(probe.get("/ready")):
        if time.monotonic() > deadline_s:
            raise ServerFailed(otherwise)
        time.sleep(_POLL_S)
