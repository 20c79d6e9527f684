"""How soon a worker is free when its client goes."""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise

from scripts.campaign.server import CampaignError, Probe
from scripts.load.metrics import percentile
from scripts.load.prompts import Prompts

_POLL_S = 0.002
_FREE_WITHIN_S = 30.0
_N_WORDS = 120
_CHUNK_TOKENS = 32
_N_TIMED = 5


@dataclass(frozen=True, slots=True)
class ReleaseTimes:
    """From the close of the connection to a free worker, by polling every 2 ms.

    Attributes:
        decode_ms: of streams left after some tokens, ascending.
        token_ms: from one token of those streams to the next, 99 %.
        prefill_ms: of requests left while their prompt was evaluated, ascending.
        chunk_ms: what the evaluation of a chunk of a prompt takes, at the median.
    """

    decode_ms: tuple[float, ...]
    token_ms: float
    prefill_ms: tuple[float, ...]
    chunk_ms: float


async def measure_release(port: int, model: str, n: int) -> ReleaseTimes:
    """Leave ``n`` streams in the middle, and half as many requests before their first token.

    Raises:
        CampaignError: a worker is not free in time.
    """
    prompts, probe = Prompts(7, _N_WORDS), Probe(port)
    decode_ms: list[float] = []
    gaps_ms: list[float] = []
    prefill_ms: list[float] = []
    chunks_ms: list[float] = []
    for number in range(n):
        body = {"model": model, "prompt": prompts.text("decode"), "max_tokens": 400}
        gaps_ms += await _leave(port, probe, body, 4 + number % 8, decode_ms)
    for number in range(_N_TIMED):
        # One that stays until its first token, to know what the whole prompt takes.
        body = {"model": model, "prompt": prompts.text("prefill", number), "max_tokens": 2}
        started_s = time.perf_counter()
        await _leave(port, probe, body, 1, [])
        n_chunks = max(1.0, _N_WORDS / _CHUNK_TOKENS)
        chunks_ms.append((time.perf_counter() - started_s) * 1e3 / n_chunks)
    for number in range(n // 2):
        body = {"model": model, "prompt": prompts.text("left", number), "max_tokens": 2}
        await _leave(port, probe, body, 0, prefill_ms)
    probe.close()
    return ReleaseTimes(
        tuple(sorted(decode_ms)),
        percentile(sorted(gaps_ms), 99),
        tuple(sorted(prefill_ms)),
        percentile(sorted(chunks_ms), 50),
    )


async def _leave(
    port: int, probe: Probe, body: dict[str, object], after: int, into_ms: list[float]
) -> list[float]:
    """Go after so many pieces of a stream; returns the milliseconds between them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps({**body, "temperature": 0, "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
    )
    times_s = []
    for _ in range(after):
        if not await asyncio.wait_for(reader.read(1 << 16), _FREE_WITHIN_S):
            break
        times_s.append(time.perf_counter())
    if not after and await probe.until(lambda s: s["running"] == 1, 5.0, _POLL_S) is None:
        raise CampaignError("a request does not run")
    left_s = time.perf_counter()
    writer.transport.abort()
    free = await probe.until(
        lambda s: s["running"] == 0 and s["waiting"] == 0, _FREE_WITHIN_S, _POLL_S
    )
    if free is None:
        raise CampaignError("a worker is not free though its client has gone")
    into_ms.append((time.perf_counter() - left_s) * 1e3)
    return [(b - a) * 1e3 for a, b in pairwise(times_s[1:])]
