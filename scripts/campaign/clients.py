"""A campaign: traffic and faults on a running server, and what became of each request."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from scripts.campaign.asks import Ask, Limits, Rubbish, Traffic, draw_bytes, draw_rubbish
from scripts.campaign.exchange import PROMPT, Manner, Probe, draw_manner, exchange
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.oracle import GRACE_S, Kind, Verdict, judge, judge_rubbish
from scripts.client import Answer
from scripts.processes import Footprint, send_signal
from scripts.server import Server

_REFUSED_WITHIN_S, _RAW_WITHIN_S = 5.0, 15.0
_LINGERS_S = 0.5  # so long after it has gone, the server may know of a client
SLOW_S = 1.0
"""Of ``/ready``, which is asked all the time: a gateway that is alive answers soon."""
PART_S = 15.0
"""As long as from burst to burst, so that each part of a campaign has one."""
LEAST_SHARE = 0.1
"""Of the requests that could be answered, those that must be, in every part.

With bursts that fill the queue a real model on two cores answers a fifth of them and more, the echo
engine two thirds; a pool that has lost its workers answers none.
"""


@dataclass(slots=True)
class Plan:
    """What a campaign does."""

    seconds: float  #: of traffic
    seed: int  #: of all chance
    settings: dict[str, str]  #: of the server
    limits: Limits
    schedule: Schedule
    clients: int = 12  #: that ask at the same time, besides bursts
    burst_s: float = PART_S  #: between bursts; 0 for none
    burst: int = 200  #: requests in one
    reload: bool = False  #: whether the server loads its model again in the middle
    n_releases: int = 100  #: how often it is measured how soon a worker is free


@dataclass(slots=True)
class Report:
    """What a campaign has found."""

    plan: Plan
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    latest_s: float = float("-inf")  #: the longest that a request took beyond its deadline
    #: requests by part of the time, of clients that ask all the time, stay, and set no bounds
    asked: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    ready_s: list[float] = field(default_factory=list)  #: what ``/ready`` took
    faults: Faults | None = None
    release: dict[str, list[float]] = field(default_factory=dict)
    before: Footprint | None = None  #: what the gateway held
    after: Footprint | None = None
    exit_s: float = 0.0  #: how long it took to end

    def violate(self, what: str, *evidence: str, kinds: Iterable[Kind] = ("other",)) -> None:
        self.violations.append(
            {"what": what, "kinds": sorted(set(kinds)), "evidence": list(evidence)}
        )

    def take(self, what: str, verdict: Verdict, answer: Answer, note: str) -> None:
        self.outcomes[verdict.outcome] += 1
        if verdict.violations:
            texts = [violation.text for violation in verdict.violations]
            kinds = [violation.kind for violation in verdict.violations]
            self.violate(what, *texts, note, f"at {answer.ended_s:.3f} s", kinds=kinds)

    def note(self, at_s: float, is_answered: bool) -> None:
        """Count a request that ended ``at_s`` seconds after the traffic began."""
        # A rest that is shorter than a part belongs to the last one.
        part = min(self._n_parts - 1, int(at_s // PART_S))
        self.asked[part] += 1
        self.answered[part] += is_answered

    @property
    def _n_parts(self) -> int:
        return max(1, int(self.plan.seconds // PART_S))

    @property
    def shares(self) -> list[float]:
        """The share of the answered, by part; 0 where nothing has ended."""
        return [self.answered[n] / max(1, self.asked[n]) for n in range(self._n_parts)]

    def check_shares(self) -> None:
        """A server that refuses everything would otherwise do nothing wrong."""
        for part, share in enumerate(self.shares):
            if share < LEAST_SHARE:
                text = f"from {part * PART_S:g} s on only {self.answered[part]} of"
                text += f" {self.asked[part]}, and {LEAST_SHARE:.0%} must be"
                self.violate("hardly anything was answered", text, kinds=["outcome"])


@dataclass(slots=True)
class Clients:
    """All clients of a campaign."""

    server: Server
    traffic: Traffic
    plan: Plan
    report: Report
    faults: Faults
    ends_s: float  #: when they ask nothing more, by `time.monotonic`
    crowd: int = 0  #: generations that they have asked for and that have not ended

    async def run(self) -> None:
        tasks = [self._client(number) for number in range(self.plan.clients)]
        if self.plan.burst_s:
            tasks.append(self._bursts())
        if self.plan.reload:
            tasks.append(self._reload())
        await asyncio.gather(*tasks, self._raw())

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self.ends_s and self.server.is_alive

    async def _client(self, number: int) -> None:
        source = random.Random(f"{self.plan.seed} client {number}")
        while self._goes_on:
            if source.random() < 0.1:
                await self._send_rubbish(draw_rubbish(source))
            else:
                await self._ask(self.traffic.draw(source), draw_manner(source), is_steady=True)
            await asyncio.sleep(source.expovariate(20))

    async def _bursts(self) -> None:
        source = random.Random(f"{self.plan.seed} bursts")
        while self._goes_on:
            await self._sleep(self.plan.burst_s)
            if not self._goes_on:
                return
            asks = [self.traffic.short(source) for _ in range(self.plan.burst)]
            await asyncio.gather(*(self._ask(ask, draw_manner(source)) for ask in asks))

    async def _raw(self) -> None:
        source = random.Random(f"{self.plan.seed} raw")
        while self._goes_on:
            await self._send_bytes(draw_bytes(source))
            await asyncio.sleep(source.expovariate(4))

    async def _reload(self) -> None:
        await self._sleep(self.plan.seconds / 2)
        send_signal(self.server.pid, signal.SIGHUP, self.server.pid)
        self.faults.counts["SIGHUP"] += 1

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self.ends_s - time.monotonic())))

    async def _send_rubbish(self, rubbish: Rubbish) -> None:
        answer = await exchange(self.server.port, rubbish, PROMPT, _REFUSED_WITHIN_S * 3)
        verdict = judge_rubbish(rubbish, answer, _REFUSED_WITHIN_S, self.faults.log)
        verdict = replace(verdict, outcome=f"rubbish: {verdict.outcome}")
        self.report.take(f"rubbish: {rubbish.name}", verdict, answer, rubbish.path)

    async def _ask(self, ask: Ask, manner: Manner, *, is_steady: bool = False) -> None:
        self._crowd(len(ask.texts))
        answer = await exchange(self.server.port, ask, manner, ask.deadline_s + 10 * GRACE_S)
        verdict = judge(ask, answer, self.faults.log)
        if answer.end == "left" and answer.status in (0, 200) and manner.leaves != "sending":
            asyncio.get_running_loop().call_later(_LINGERS_S, self._crowd, -len(ask.texts))
        else:
            self._crowd(-len(ask.texts))
        if answer.end != "left":
            self.report.latest_s = max(self.report.latest_s, answer.took_s - ask.deadline_s)
            if is_steady and not ask.has_own_bounds:
                began_s = self.ends_s - self.plan.seconds
                self.report.note(answer.ended_s - began_s, verdict.outcome == "answered")
        note = f"{ask.path} {ask.body} {dict(ask.headers)} {manner}"
        self.report.take(ask.name, verdict, answer, note)

    def _crowd(self, more: int) -> None:
        self.crowd += more
        self.faults.log.crowd.append((time.monotonic(), self.crowd))

    async def _send_bytes(self, content: bytes) -> None:
        """What is not HTTP is answered or hung up on, and not with a 500."""
        head = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        except OSError as error:
            self.report.violate("raw bytes", f"nobody listens: {error}")
            return
        try:
            writer.write(content)
            writer.write_eof()
            head = await asyncio.wait_for(reader.read(-1), _RAW_WITHIN_S)
        except asyncio.TimeoutError:
            self.report.violate("raw bytes", f"hangs on {content!r}")
        except OSError:
            pass  # hung up on
        finally:
            writer.transport.abort()
        self.report.outcomes["raw bytes"] += 1
        if head.startswith(b"HTTP/1.1 5") and head[9:12] not in (b"501", b"503", b"505"):
            self.report.violate("raw bytes", f"{head[:100]!r} for {content!r}")


async def watch_ready(port: int, report: Report) -> None:
    """Ask ``/ready`` until cancelled."""
    probe = Probe(port)
    try:
        while True:
            started_s = time.monotonic()
            try:
                await probe.get()
            except OSError as error:
                report.violate("/ready", str(error), kinds=["outcome"])
            report.ready_s.append(time.monotonic() - started_s)
            await asyncio.sleep(0.1)
    finally:
        probe.close()


async def disturb(server: Server, traffic: Traffic, report: Report) -> Faults:
    """Traffic and faults for the time of the plan, then until the last request has ended."""
    plan = report.plan
    faults = report.faults = Faults(server, plan.schedule, plan.seed)
    faults.log.max_queue = int(plan.settings["MAX_QUEUE"])
    clients = Clients(server, traffic, plan, report, faults, time.monotonic() + plan.seconds)
    beside = [
        asyncio.create_task(faults.run()),
        asyncio.create_task(watch_ready(server.port, report)),
    ]
    try:
        await clients.run()
    finally:
        for task in beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    for missing in faults.missing:
        report.violate("no successor", missing, server.log())
    report.check_shares()
    return faults
