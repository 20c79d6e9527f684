"""How soon a worker is free when its client goes."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from scripts.campaign.server import CampaignError, Probe
from scripts.load.prompts import Prompts
from scripts.load.sse import EventParser

_POLL_S = 0.002
# The threads of an evaluation wait for one another, so that whoever asks slows it down: nobody
# asks before most of what the worker has to end is over.
_SILENT_SHARE = 0.8
_FREE_WITHIN_S = 30.0
_N_WORDS = 120
_CHUNK_TOKENS = 32
_N_TIMED = 9
_TIMED_TOKENS = 40


@dataclass(frozen=True, slots=True)
class ReleaseTimes:
    """From the close of the connection to a free worker, and what the worker has to end.

    Attributes:
        decode_ms: of streams left after some tokens, ascending; what is free before 0.8 of a token
            counts as that.
        token_ms: from one token to the next, at the median.
        prefill_ms: of requests left while their prompt was evaluated, ascending, likewise with 0.8
            of a chunk; none if the engine has no chunks.
        chunk_ms: what the evaluation of 32 tokens of a prompt takes, at the median.
    """

    decode_ms: tuple[float, ...]
    token_ms: float
    prefill_ms: tuple[float, ...]
    chunk_ms: float


async def measure_release(port: int, model: str, n: int, has_chunks: bool) -> ReleaseTimes:
    """Leave ``n`` streams in the middle, and half as many requests before their first token.

    Args:
        port: where an idle server listens.
        model: its name.
        n: how often.
        has_chunks: whether the evaluation of a prompt takes time at all.

    Raises:
        CampaignError: a request is not answered, or a worker not free, in time.
    """
    prompts, probe, source = Prompts(7, _N_WORDS), Probe(port), random.Random(7)
    tokens_ms: list[float] = []
    chunks_ms: list[float] = []
    try:
        for number in range(_N_TIMED):
            body: dict[str, object] = {"model": model, "prompt": prompts.text("timed", number)}
            gaps_ms, chunk_ms = await _time(port, {**body, "max_tokens": _TIMED_TOKENS})
            tokens_ms += gaps_ms
            chunks_ms.append(chunk_ms)
        token_ms, chunk_ms = median(tokens_ms), median(chunks_ms)
        decode_ms, prefill_ms = [], []
        for number in range(n):
            body = {"model": model, "prompt": prompts.text("decode"), "max_tokens": 400}
            after_s = source.uniform(0, token_ms) / 1e3
            decode_ms.append(await _leave(port, probe, body, 4 + number % 8, after_s, token_ms))
        for number in range(n // 2 if has_chunks else 0):
            body = {"model": model, "prompt": prompts.text("left", number), "max_tokens": 2}
            after_s = source.uniform(0, chunk_ms) / 1e3
            prefill_ms.append(await _leave(port, probe, body, 0, after_s, chunk_ms))
    except (OSError, asyncio.TimeoutError) as error:
        why = str(error) or f"no answer after {_FREE_WITHIN_S:g} s"
        raise CampaignError(f"how soon a worker is free cannot be measured: {why}") from error
    finally:
        probe.close()
    return ReleaseTimes(tuple(sorted(decode_ms)), token_ms, tuple(sorted(prefill_ms)), chunk_ms)


async def _ask(
    port: int, body: dict[str, object]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps({**body, "temperature": 0, "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    )
    return reader, writer


async def _time(port: int, body: dict[str, object]) -> tuple[list[float], float]:
    """The milliseconds from token to token of a stream, and those of a chunk of its prompt."""
    started_s = time.perf_counter()
    reader, writer = await _ask(port, {**body, "stream_options": {"include_usage": True}})
    answer, times_s = b"", list[float]()
    while piece := await asyncio.wait_for(reader.read(1 << 16), _FREE_WITHIN_S):
        times_s.append(time.perf_counter())
        answer += piece
    writer.close()
    usage = None
    # The sizes of chunks of HTTP are lines without a colon, which mean nothing to the parser.
    for event in EventParser().feed(answer.partition(b"\r\n\r\n")[2]):
        if event.text.startswith("{"):
            usage = json.loads(event.text).get("usage") or usage
    if usage is None:
        raise CampaignError(f"a stream has no usage: {answer[-300:]!r}")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    n_chunks = max(1, usage["prompt_tokens"] - cached) / _CHUNK_TOKENS
    # The head of a response comes as soon as its prompt has been evaluated.
    chunk_ms = (times_s[0] - started_s) * 1e3 / n_chunks
    return [(b - a) * 1e3 for a, b in pairwise(times_s[1:-1])], chunk_ms


async def _leave(
    port: int, probe: Probe, body: dict[str, object], pieces: int, after_s: float, unit_ms: float
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
            raise CampaignError("a stream ends before its client goes")
    if not pieces and await probe.until(lambda s: s["running"] == 1, 5.0, _POLL_S) is None:
        raise CampaignError("a request does not run")
    await asyncio.sleep(after_s)
    left_s = time.perf_counter()
    writer.transport.abort()
    await asyncio.sleep(_SILENT_SHARE * unit_ms / 1e3)
    free = await probe.until(
        lambda s: s["running"] == 0 and s["waiting"] == 0, _FREE_WITHIN_S, _POLL_S
    )
    if free is None:
        raise CampaignError("a worker is not free though its client has gone")
    return (time.perf_counter() - left_s) * 1e3
