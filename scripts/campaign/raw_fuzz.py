"""Sends spoiled HTTP requests to a server, each over a connection of its own.

Each must be answered, or hung up on, in time, and with no status that tells of a mistake of the
server's; workers must not notice.
"""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from scripts.campaign.raw_requests import VALID, spoiled
from scripts.campaign.server import CampaignServer, Probe, is_idle

RECEIVE_TIMEOUT_S = 1.0
"""What the server is to be started with."""
BOUND_S = RECEIVE_TIMEOUT_S + 4.0
"""In which there must be an answer, or no connection any more."""
_AT_ONCE = 48
_CHECK_EVERY = 1000
_LEAST_ANSWERED = 0.5
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_PROPER_5XX = {501, 503, 504, 505}


@dataclass(slots=True)
class FuzzReport:
    """What fuzzing has found.

    Attributes:
        cases: how many were sent.
        outcomes: how many ended how: by status, or ``closed``.
        violations: what must not be, with the case's number and content.
        slowest_s: the longest that a case took.
    """

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The same by name."""
        return {
            "cases": self.cases,
            "outcomes": dict(sorted(self.outcomes.items())),
            "violations": self.violations,
            "slowest_s": self.slowest_s,
        }


async def fuzz(server: CampaignServer, n: int, seed: int, first: int = 0) -> FuzzReport:
    """Send the cases ``first`` to ``first + n - 1`` of a seed."""
    report = FuzzReport()
    probe = Probe(server.port)
    before = await probe.until(is_idle, 30.0)
    assert before is not None, "the server is not idle"
    pids = {worker["pid"] for worker in before["workers"]}
    checking = asyncio.Lock()
    numbers = iter(range(first, first + n))

    async def client() -> None:
        for number in numbers:
            await send_case(server.port, number, seed, report)
            if number % _CHECK_EVERY == _CHECK_EVERY - 1:
                async with checking:
                    await check()

    async def check() -> None:
        if not server.is_alive:
            report.violations.append(f"the gateway has ended:\n{server.last_words()}")
        with contextlib.suppress(OSError):
            status = await probe.get()
            if {worker["pid"] for worker in status["workers"]} != pids:
                report.violations.append(f"a worker has died: {status['workers']}")

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    await check()
    await check_answers(server.port, report)
    if await probe.until(is_idle, BOUND_S) is None:
        report.violations.append(f"not idle at the end:\n{server.last_words()}")
    probe.close()
    return report


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
    """Send one case, and note in the report what came of it."""
    source = random.Random(f"{seed} raw {number}")
    await _send(port, f"case {number}", spoiled(source), source, report)


async def _send(
    port: int, name: str, content: bytes, source: random.Random | None, report: FuzzReport
) -> str:
    """Send bytes, in the manner that chance wants if it is given; returns the outcome."""
    report.cases += 1
    started_s = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        report.violations.append(f"{name}: nobody listens: {error}")
        return "closed"
    received, end = bytearray(), "silent"
    try:
        end = await asyncio.wait_for(_converse(reader, writer, content, source, received), BOUND_S)
    except asyncio.TimeoutError:
        pass
    finally:
        writer.transport.abort()
    took_s = time.monotonic() - started_s
    report.slowest_s = max(report.slowest_s, took_s)
    answer = _final(bytes(received))
    status = _STATUS.match(answer)
    outcome = status[1].decode() if status else "silent" if end == "silent" else "closed"
    report.outcomes[outcome] += 1
    evidence = f"{name}, {took_s:.2f} s: {content[:300]!r} ... -> {answer[:300]!r}"
    if end == "silent":
        report.violations.append(f"hangs: {evidence}")
    elif answer and not status:
        report.violations.append(f"no HTTP: {evidence}")
    elif status and not _is_whole(answer, is_at_end=end == "closed"):
        report.violations.append(f"cut short, {end}: {evidence}")
    if status and (code := int(status[1])) >= 500 and code not in _PROPER_5XX:
        report.violations.append(f"status {code}: {evidence}")
    if b"Traceback" in answer:
        report.violations.append(f"a traceback: {evidence}")
    return outcome


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    content: bytes,
    source: random.Random | None,
    received: bytearray,
) -> str:
    """Send, and read what is answered; returns how it ended: ``whole``, ``closed``, ``reset``."""
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
    try:
        while piece := await reader.read(1 << 16):
            received += piece
            if _is_whole(_final(bytes(received)), is_at_end=False):
                return "whole"
    except OSError:
        return "reset"
    return "closed"


def _final(answer: bytes) -> bytes:
    """What comes behind the answers that say only that one may go on."""
    while answer.startswith(b"HTTP/1.1 100 ") and b"\r\n\r\n" in answer:
        answer = answer.partition(b"\r\n\r\n")[2]
    return answer


def _is_whole(answer: bytes, *, is_at_end: bool) -> bool:
    """Whether a first response is there; what is pipelined behind it is not waited for.

    Args:
        answer: as far as it came.
        is_at_end: whether the connection was closed behind it.
    """
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    head = head.lower() + b"\r\n"
    if length := _LENGTH.search(head):
        return len(body) >= int(length[1])
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        return body.endswith(b"0\r\n\r\n")
    return is_at_end or head.split()[1] in (b"204", b"304")
