"""How soon a worker is free when its client goes."""

import asyncio
import json
import random
import time
from statistics import median
from typing import Any

from scripts.campaign.asks import COMPLETIONS
from scripts.campaign.exchange import Probe
from scripts.client import Answer, request
from scripts.prompts import Prompts
from scripts.server import ServerFailed
from scripts.transcript import outcome

_POLL_S = 0.002
# The threads of an evaluation wait for one another, so that whoever asks slows it down: nobody
# asks before most of what the worker has to end is over.
_SILENT_SHARE = 0.8
_FREE_WITHIN_S = 30.0
_N_WORDS = 120
_CHUNK_TOKENS = 32
_N_TIMED, _TIMED_TOKENS = 9, 40


async def measure_release(
    port: int, model: str, n: int, has_chunks: bool
) -> dict[str, list[float]]:
    """Leave ``n`` streams in the middle, and half as many requests before their first token.

    Returns:
        Milliseconds from the close of the connection to a free worker: ``decode`` and, if the
        evaluation of a prompt takes time at all, ``prefill``; what is free before 0.8 of a token or
        chunk counts as that. Beside them what ``token`` and ``chunk`` (32 tokens) take.

    Raises:
        ServerFailed: a request is not answered, or a worker not free, in time.
    """
    prompts, probe, source = Prompts(7, _N_WORDS), Probe(port), random.Random(7)
    times: dict[str, list[float]] = {"token": [], "chunk": [], "decode": [], "prefill": []}
    try:
        for number in range(_N_TIMED):
            body: dict[str, Any] = {"model": model, "prompt": prompts.text("timed", number)}
            gaps_ms, chunk_ms = await _time(port, {**body, "max_tokens": _TIMED_TOKENS})
            times["token"] += gaps_ms
            times["chunk"].append(chunk_ms)
        token_ms, chunk_ms = median(times["token"]), median(times["chunk"])
        for number in range(n):
            body = {"model": model, "prompt": prompts.text("decode"), "max_tokens": 400}
            after_s = source.uniform(0, token_ms) / 1e3
            took_ms = await _leave(port, probe, body, 4 + number % 8, after_s, token_ms)
            times["decode"].append(took_ms)
        for number in range(n // 2 if has_chunks else 0):
            body = {"model": model, "prompt": prompts.text("left", number), "max_tokens": 2}
            after_s = source.uniform(0, chunk_ms) / 1e3
            times["prefill"].append(await _leave(port, probe, body, 0, after_s, chunk_ms))
    except (OSError, asyncio.TimeoutError) as error:
        why = str(error) or f"no answer after {_FREE_WITHIN_S:g} s"
        raise ServerFailed(f"how soon a worker is free cannot be measured: {why}") from error
    finally:
        probe.close()
    return times


async def _ask(
    port: int, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {**body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    content = json.dumps(body).encode()
    writer.write(request("POST", COMPLETIONS, content, (("connection", "close"),)))
    return reader, writer


async def _time(port: int, body: dict[str, Any]) -> tuple[list[float], float]:
    """The milliseconds from token to token of a stream, and those of a chunk of its prompt."""
    answer = Answer(time.monotonic())
    reader, writer = await _ask(port, body)
    while piece := await asyncio.wait_for(reader.read(1 << 16), _FREE_WITHIN_S):
        answer.raw.append((time.monotonic(), piece))
    writer.close()
    answer.finish("complete")
    seen = outcome("timed", answer, COMPLETIONS)
    if not seen.has_usage:
        raise ServerFailed(f"a stream has no usage: {answer.body[-300:]!r}")
    n_chunks = max(1, seen.prompt_tokens - seen.cached_tokens) / _CHUNK_TOKENS
    # The head of a response comes as soon as its prompt has been evaluated.
    chunk_ms = (answer.raw[0][0] - answer.began_s) * 1e3 / n_chunks
    return [gap_s * 1e3 for gap_s in seen.gaps_s], chunk_ms


async def _leave(
    port: int, probe: Probe, body: dict[str, Any], pieces: int, after_s: float, unit_ms: float
) -> float:
    """Go after so many pieces of a stream and so many seconds; the milliseconds until all is free.

    Args:
        port: of the server.
        probe: of the same.
        body: what to ask.
        pieces: of the answer; 0 to go before it begins.
        after_s: how much later.
        unit_ms: what the worker cannot interrupt takes so long.
    """
    reader, writer = await _ask(port, body)
    for _ in range(pieces):
        if not await asyncio.wait_for(reader.read(1 << 16), _FREE_WITHIN_S):
            raise ServerFailed("a stream ends before its client goes")
    if not pieces and await probe.until(lambda s: s["running"] == 1, 5.0, _POLL_S) is None:
        raise ServerFailed("a request does not run")
    await asyncio.sleep(after_s)
    left_s = time.perf_counter()
    writer.transport.abort()
    await asyncio.sleep(_SILENT_SHARE * unit_ms / 1e3)
    free = await probe.until(
        lambda s: s["running"] == 0 and s["waiting"] == 0, _FREE_WITHIN_S, _POLL_S
    )
    if free is None:
        raise ServerFailed("a worker is not free though its client has gone")
    return (time.perf_counter() - left_s) * 1e3
