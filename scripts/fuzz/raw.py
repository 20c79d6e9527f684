"""Sends a server spoiled bytes.

Each request must be answered, or hung up on, in time, and with no status that tells of a mistake of
the server's; workers must not notice.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from scripts.campaign.exchange import PROMPT, Probe, read_answer
from scripts.client import Answer
from scripts.fuzz.spoiled import VALID, spoiled
from scripts.server import Server, is_idle

_RECEIVE_TIMEOUT_S = 1.0
BOUND_S = _RECEIVE_TIMEOUT_S + 4.0
"""In which there must be an answer, or no connection any more."""
SETTINGS = {
    "MODEL_TYPE": "echo",
    "WORKERS": "2",
    "PARKED": "1",
    "RECEIVE_TIMEOUT": f"{_RECEIVE_TIMEOUT_S:g}",
    "KEEP_ALIVE_TIMEOUT": "1",
    "LOG_LEVEL": "warning",
}
"""Of the server that is fuzzed."""
_AT_ONCE = 48
_LEAST_ANSWERED = 0.5
_PROPER_5XX = {501, 503, 504, 505}
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(slots=True)
class FuzzReport:
    """What fuzzing has found."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  #: by status, or ``closed``
    violations: list[str] = field(default_factory=list)  #: with the case's number and content
    slowest_s: float = 0.0


async def fuzz(server: Server, n: int, seed: int, first: int = 0) -> FuzzReport:
    """Send the cases ``first`` to ``first + n - 1`` of a seed."""
    report, probe = FuzzReport(), Probe(server.port)
    before = await probe.until(is_idle, 30.0)
    assert before is not None, "the server is not idle"
    numbers = iter(range(first, first + n))

    async def client() -> None:
        for number in numbers:
            await send_case(server.port, number, seed, report)

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    await check_answers(server.port, report)
    status = await probe.until(is_idle, BOUND_S)
    if status is None:
        report.violations.append(f"not idle at the end:\n{server.log()}")
    elif (workers := _pids(status)) != _pids(before):
        report.violations.append(f"workers have died: {_pids(before)}, and {workers} at the end")
    probe.close()
    return report


def _pids(status: dict[str, list[dict[str, int]]]) -> set[int]:
    return {worker["pid"] for worker in status["workers"]}


async def check_answers(port: int, report: FuzzReport) -> None:
    """See that spoiled requests are mostly answered, and valid ones always; to be called last."""
    closed, cases = report.outcomes["closed"], report.cases
    if cases - closed < _LEAST_ANSWERED * cases:
        report.violations.append(f"{closed} of {cases} cases were hung up on without an answer")
    for number, content in enumerate(VALID):
        outcome = await _send(port, f"valid request {number}", content, None, report)
        if outcome in ("closed", "silent") or outcome >= "500":
            report.violations.append(f"{outcome} for a valid request: {content[:300]!r}")


async def send_case(port: int, number: int, seed: int, report: FuzzReport) -> None:
    source = random.Random(f"{seed} raw {number}")
    await _send(port, f"case {number}", spoiled(source), source, report)


async def _send(
    port: int, name: str, content: bytes, source: random.Random | None, report: FuzzReport
) -> str:
    """Send bytes, in a manner that ``source`` draws, and judge the answer; returns the outcome."""
    report.cases += 1
    answer = Answer(time.monotonic())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        report.violations.append(f"{name}: nobody listens: {error}")
        return "closed"
    try:
        await asyncio.wait_for(_converse(reader, writer, content, source, answer), BOUND_S)
        answer.finish("complete")
    except asyncio.TimeoutError:
        answer.finish("silent")
    finally:
        writer.transport.abort()
    outcome = str(answer.status or ("silent" if answer.end == "silent" else "closed"))
    report.outcomes[outcome] += 1
    took_s = answer.ended_s - answer.began_s
    report.slowest_s = max(report.slowest_s, took_s)
    # That one may go on is no answer.
    received = b"".join(piece for _, piece in answer.raw).removeprefix(_GO_ON)
    evidence = f"{name}, {took_s:.2f} s: {content[:300]!r} ... -> {received[:300]!r}"
    report.violations += [f"{what}: {evidence}" for what in _mistakes(answer, received)]
    return outcome


def _mistakes(answer: Answer, received: bytes) -> list[str]:
    found = []
    if answer.end == "silent":
        found.append("hangs")
    elif answer.end == "broken" and received:
        what = "cut short" if received.startswith(b"HTTP/1.") else "no HTTP"
        found.append(f"{what}, {answer.why}")
    if answer.status >= 500 and answer.status not in _PROPER_5XX:
        found.append(f"status {answer.status}")
    if b"Traceback" in received:
        found.append("a traceback")
    return found


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    content: bytes,
    source: random.Random | None,
    answer: Answer,
) -> None:
    with contextlib.suppress(OSError):
        if source is not None and source.random() < 0.2:
            middle = source.randrange(len(content) + 1)
            writer.write(content[:middle])
            await asyncio.sleep(0.01)
            content = content[middle:]
        writer.write(content)
        if source is not None and source.random() < 0.3:
            writer.write_eof()
        await writer.drain()
    with contextlib.suppress(OSError):
        await read_answer(reader, PROMPT, answer)
