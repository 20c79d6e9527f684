"""The traffic of a campaign: clients that ask all the time, bursts, and rubbish."""

import asyncio
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from scripts.campaign.asks import RUBBISH, Ask, Rubbish, Traffic
from scripts.campaign.exchange import PROMPT, Manner, Probe, draw_manner, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.oracle import GRACE_S, judge, judge_rubbish
from scripts.campaign.report import Plan, Report
from scripts.processes import send_signal
from scripts.server import Server

_REFUSED_WITHIN_S = 5.0
_LINGERS_S = 0.5  # so long after it has gone, the server may know of a client


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
        await asyncio.gather(*tasks)

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self.ends_s and self.server.is_alive

    async def _client(self, number: int) -> None:
        source = random.Random(f"{self.plan.seed} client {number}")
        while self._goes_on:
            if source.random() < 0.1:
                await self._send_rubbish(source.choice(RUBBISH))
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
            # The only headers are bounds of its own.
            if is_steady and not ask.headers:
                began_s = self.ends_s - self.plan.seconds
                self.report.note(answer.ended_s - began_s, verdict.outcome == "answered")
        note = f"{ask.path} {ask.body} {dict(ask.headers)} {manner}"
        self.report.take(ask.name, verdict, answer, note)

    def _crowd(self, more: int) -> None:
        self.crowd += more
        self.faults.log.crowd.append((time.monotonic(), self.crowd))


async def watch_ready(server: Server, report: Report) -> None:
    """Ask ``/ready`` until cancelled."""
    probe = Probe(server.port)
    try:
        while True:
            started_s = time.monotonic()
            try:
                await probe.get()
            except OSError as error:
                report.violate("/ready", str(error), server.log())
            report.ready_s.append(time.monotonic() - started_s)
            await asyncio.sleep(0.1)
    finally:
        probe.close()


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
