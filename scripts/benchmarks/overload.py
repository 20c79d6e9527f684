"""Ten times the load that can be served: how soon the rest is refused, and how those taken fare."""

import asyncio
import time
from functools import partial
from statistics import median

from scripts.benchmarks.setup import COMPLETIONS, RequestFailed, Setup, serve_echo
from scripts.campaign.asks import Ask
from scripts.campaign.exchange import PROMPT, exchange
from scripts.client import Answer
from scripts.figures import Results, percentile
from scripts.prompts import arrivals, unlike_any
from scripts.transcript import outcome

_WORKERS, _MAX_QUEUE = 2, 8
_DELAY_MS, _MAX_TOKENS = 10.0, 8
_TIMES = 10
_PATIENCE_S = 60.0


def measure_overload(setup: Setup, results: Results) -> None:
    """Add latencies under tenfold overload.

    With the echo engine at a pace that leaves the machine to the gateway and the client, so that
    what is measured is admission.
    """
    with serve_echo(_WORKERS, _DELAY_MS, _MAX_QUEUE) as server:
        asyncio.run(_measure(server.port, setup, results))


async def _measure(port: int, setup: Setup, results: Results) -> None:
    full = _WORKERS + _MAX_QUEUE
    # Unloaded but for a queue that is just full: nobody waits longer than its last place.
    last_s, rates = [], []
    for _ in range(setup.choose(10, 2)):
        started_s = time.monotonic()
        answers = await asyncio.gather(*(_ask(port) for _ in range(full)))
        rates.append(full / (time.monotonic() - started_s))
        last_s.append(max(map(_ttft_s, answers)))
    bound_s, capacity = median(last_s), median(rates)

    answers = await _overload(port, capacity * _TIMES, setup.choose(20, 3))
    taken = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    others = len(answers) - len(taken) - len(refused)
    if not taken or not refused or others:
        raise RequestFailed(f"{len(taken)} x 200, {len(refused)} x 429, {others} others")

    add = partial(results.add, "overload")
    refused_ms = [(answer.ended_s - answer.began_s) * 1e3 for answer in refused]
    name = f"tenfold overload ({capacity * _TIMES:.0f} requests/s, {len(answers)} in all): 429, p99"
    add(name, percentile(refused_ms, 99), unit="ms", digits=1, goal="≤ 50")
    name = "the same: TTFT p99 of those taken / that of the last place in a full queue, unloaded"
    add(name, percentile(map(_ttft_s, taken), 99) / bound_s, goal="≤ 1.2")
    served = len(taken) / (max(a.ended_s for a in taken) - min(a.began_s for a in taken))
    add("the same: requests served a second / without overload", served / capacity)


async def _overload(port: int, rate: float, seconds: float) -> list[Answer]:
    """The answers to requests that arrive whatever comes of them."""
    pauses, asked = arrivals(rate, 1.0, 7, 0), list[asyncio.Task[Answer]]()
    due_s = time.monotonic()
    ends_s = due_s + seconds
    while due_s < ends_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        asked.append(asyncio.create_task(_ask(port)))
        due_s += next(pauses)
    return await asyncio.gather(*asked)


async def _ask(port: int) -> Answer:
    body = {
        "prompt": f"{unlike_any()} there was a sea", "max_tokens": _MAX_TOKENS, "temperature": 0,
        "stream": True,
    }  # fmt: skip
    ask = Ask("overload", COMPLETIONS, body, "completion", True, _PATIENCE_S, _PATIENCE_S)
    answer = await exchange(port, ask, PROMPT, _PATIENCE_S)
    if answer.end != "complete":
        raise RequestFailed(f"a request under overload: {answer.end}, {answer.why}")
    return answer


def _ttft_s(answer: Answer) -> float:
    ttft_s = outcome("overload", answer, COMPLETIONS).ttft_s
    if ttft_s is None:
        raise RequestFailed(f"no text but {answer.status} {answer.body[:200]!r}")
    return ttft_s
