"""Fuzzes a server over HTTP, with spoiled bytes and with its own OpenAPI document.

Each request must be answered, or hung up on, in time, and with no status that tells of a mistake of
the server's; workers must not notice. The command line: ``./scripts/fuzz-http``.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.campaign.exchange import Probe
from scripts.campaign.spoiled import VALID, spoiled
from scripts.client import Answer, Ending
from scripts.server import Server, ServerFailed, is_idle, served

RECEIVE_TIMEOUT_S = 1.0
BOUND_S = RECEIVE_TIMEOUT_S + 4.0
"""In which there must be an answer, or no connection any more."""
SETTINGS = {
    "MODEL_TYPE": "echo",
    "WORKERS": "2",
    "PARKED": "1",
    "RECEIVE_TIMEOUT": f"{RECEIVE_TIMEOUT_S:g}",
    "KEEP_ALIVE_TIMEOUT": "1",
    "LOG_LEVEL": "warning",
}
"""Of the server that is fuzzed."""
_AT_ONCE = 48
_CHECK_EVERY = 1000
_LEAST_ANSWERED = 0.5
_PROPER_5XX = {501, 503, 504, 505}
_SHOWN = 20
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
    pids = {worker["pid"] for worker in before["workers"]}
    numbers = iter(range(first, first + n))

    async def client() -> None:
        for number in numbers:
            await send_case(server.port, number, seed, report)
            if number % _CHECK_EVERY == _CHECK_EVERY - 1:
                await check()

    async def check() -> None:
        if not server.is_alive:
            report.violations.append(f"the gateway has ended:\n{server.log()}")
        asking = Probe(server.port)
        with contextlib.suppress(OSError):
            status = await asking.get()
            if {worker["pid"] for worker in status["workers"]} != pids:
                report.violations.append(f"a worker has died: {status['workers']}")
        asking.close()

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    await check()
    await check_answers(server.port, report)
    if await probe.until(is_idle, BOUND_S) is None:
        report.violations.append(f"not idle at the end:\n{server.log()}")
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
    source = random.Random(f"{seed} raw {number}")
    await _send(port, f"case {number}", spoiled(source), source, report)


async def _send(
    port: int, name: str, content: bytes, source: random.Random | None, report: FuzzReport
) -> str:
    """Send bytes, in the manner that chance wants if it is given; returns the outcome."""
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
    took_s = answer.ended_s - answer.began_s
    report.slowest_s = max(report.slowest_s, took_s)
    # That one may go on is no answer.
    received = b"".join(piece for _, piece in answer.raw).removeprefix(_GO_ON)
    outcome = str(answer.status or ("silent" if answer.end == "silent" else "closed"))
    report.outcomes[outcome] += 1
    evidence = f"{name}, {took_s:.2f} s: {content[:300]!r} ... -> {received[:300]!r}"
    if answer.end == "silent":
        report.violations.append(f"hangs: {evidence}")
    elif answer.end == "broken" and received:
        what = "cut short" if received.startswith(b"HTTP/1.") else "no HTTP"
        report.violations.append(f"{what}, {answer.why}: {evidence}")
    if answer.status >= 500 and answer.status not in _PROPER_5XX:
        report.violations.append(f"status {answer.status}: {evidence}")
    if b"Traceback" in received:
        report.violations.append(f"a traceback: {evidence}")
    return outcome


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    content: bytes,
    source: random.Random | None,
    answer: Answer,
) -> None:
    """Send, and read the first answer; what is pipelined behind it is not waited for."""
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
    ending = Ending()
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            answer.raw.append((time.monotonic(), piece))
            if ending.feed(piece):
                return


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    reports: dict[str, FuzzReport] = {}
    try:
        with served(**SETTINGS) as server:
            if options.only != "schema":
                reports["raw"] = asyncio.run(fuzz(server, options.cases, seed, options.first))
            if options.only != "raw":
                from scripts.campaign import schema_fuzz

                reports["schema"] = schema_fuzz.fuzz(server.url, options.cases, seed)
                if restarts := sum(worker["restarts"] for worker in server.ready()["workers"]):
                    reports["schema"].violations.append(f"{restarts} workers have died")
            last = list(reports.values())[-1]
            last.violations += [f"in the log: {mistake}" for mistake in server.mistakes()[:1]]
    except (ServerFailed, OSError) as error:
        print(f"fuzz-http: {error}", file=sys.stderr)
        return 2
    for name, report in reports.items():
        outcomes = ", ".join(f"{n} x {what}" for what, n in sorted(report.outcomes.items()))
        print(f"{name}: {report.cases} cases, {len(report.violations)} violations; {outcomes};")
        print(f"the slowest took {report.slowest_s:.2f} s")
        for violation in report.violations[:_SHOWN]:
            print(f"\nVIOLATION: {violation}")
    if options.json:
        content = {name: {"seed": seed, **asdict(report)} for name, report in reports.items()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return 1 if any(report.violations for report in reports.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fuzz-http",
        description="Start a server with the echo engine, and send it spoiled bytes and requests\n"
        "made from its own OpenAPI document. Exit status 1: a 500, a hang, a worker's death, or\n"
        "an answer that the document does not allow.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--cases", type=int, default=10_000, metavar="N", help="of each kind (default: 10000)")
    add("--only", choices=("raw", "schema"), help="one kind only")
    add("--seed", type=int, metavar="N", help="of all chance (default: drawn, and printed)")
    add("--first", type=int, default=0, metavar="N", help="number of the first raw case")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    return parser
