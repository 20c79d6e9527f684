"""The clients of a campaign, and what becomes of their requests."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from scripts.campaign import rubbish
from scripts.campaign.ask import Answer, Ask, Rubbish
from scripts.campaign.exchange import PROMPT, Manner, draw_manner, exchange
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.oracle import GRACE_S, Kind, Verdict, judge, judge_rubbish
from scripts.campaign.parts import Parts
from scripts.campaign.processes import Footprint, send_signal
from scripts.campaign.readiness import Readiness
from scripts.campaign.release import ReleaseTimes
from scripts.campaign.server import CampaignServer
from scripts.campaign.traffic import Limits, Traffic

_REFUSED_WITHIN_S = 5.0
_RAW_WITHIN_S = 15.0
# After it has gone, the server may know of a client for so long.
_LINGERS_S = 0.5


@dataclass(slots=True)
class Plan:
    """What a campaign does.

    Attributes:
        seconds: how long there is traffic.
        seed: of all chance.
        settings: of the server, as environment variables.
        limits: of the requests.
        schedule: of the faults.
        clients: how many ask at the same time, besides bursts.
        burst_s: seconds between bursts; 0 for none.
        burst: requests in one.
        reload: whether the server is told to load its model again in the middle.
        n_releases: how often it is measured how soon a worker is free.
    """

    seconds: float
    seed: int
    settings: dict[str, str]
    limits: Limits
    schedule: Schedule
    clients: int = 12
    burst_s: float = 15.0
    burst: int = 200
    reload: bool = False
    n_releases: int = 100


@dataclass(slots=True)
class Report:
    """What a campaign has found.

    Attributes:
        plan: what was done.
        outcomes: how many requests ended how.
        violations: each with its kinds and its evidence.
        latest_s: the longest that any request took beyond its deadline; negative if none did.
        parts: how many requests were answered when.
        readiness: how soon ``/ready`` answered.
        faults: what was done, how often.
        successor_ms: from a worker's kill to its successor's being ready.
        after_zygote_ms: the same, while there was no zygote.
        release: how soon a worker is free when its client goes.
        before: what the gateway held before.
        after: and after.
        zygotes_before: what each zygote held before.
        zygotes_after: and after.
        exit_status: of the gateway.
        exit_s: how long it took to end.
    """

    plan: Plan
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    latest_s: float = float("-inf")
    parts: Parts = field(init=False)
    readiness: Readiness = field(default_factory=Readiness)
    faults: Counter[str] = field(default_factory=Counter)
    successor_ms: list[float] = field(default_factory=list)
    after_zygote_ms: list[float] = field(default_factory=list)
    release: ReleaseTimes | None = None
    before: Footprint | None = None
    after: Footprint | None = None
    zygotes_before: list[Footprint] = field(default_factory=list)
    zygotes_after: list[Footprint] = field(default_factory=list)
    exit_status: int | None = None
    exit_s: float = 0.0

    def __post_init__(self) -> None:
        """Make the parts that the plan has."""
        self.parts = Parts(self.plan.seconds)

    def violate(self, what: str, *evidence: str, kinds: Iterable[Kind] = ("other",)) -> None:
        """Note a violation."""
        self.violations.append(
            {"what": what, "kinds": sorted(set(kinds)), "evidence": list(evidence)}
        )

    def take(self, what: str, verdict: Verdict, answer: Answer, note: str) -> None:
        """Note what one request came to."""
        self.outcomes[verdict.outcome] += 1
        if verdict.violations:
            texts = [violation.text for violation in verdict.violations]
            kinds = [violation.kind for violation in verdict.violations]
            self.violate(what, *texts, note, f"at {answer.ended_s:.3f} s", kinds=kinds)


@dataclass(slots=True)
class Clients:
    """All clients of a campaign.

    Attributes:
        server: whom they ask.
        traffic: what they ask.
        plan: how many they are, and what they do.
        report: where they note what became of it.
        faults: what is done to the server meanwhile.
        ends_s: when they ask nothing more, by `time.monotonic`.
        crowd: how many generations they have asked for that have not ended.
    """

    server: CampaignServer
    traffic: Traffic
    plan: Plan
    report: Report
    faults: Faults
    ends_s: float
    crowd: int = 0

    async def run(self) -> None:
        """Ask until the time is over, and wait for the last answer."""
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
                await self._ask(rubbish.draw_body(source), PROMPT)
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
            await self._send_bytes(rubbish.draw_bytes(source))
            await asyncio.sleep(source.expovariate(4))

    async def _reload(self) -> None:
        await self._sleep(self.plan.seconds / 2)
        send_signal(self.server.pid, signal.SIGHUP, self.server.pid)
        self.faults.counts["SIGHUP"] += 1

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self.ends_s - time.monotonic())))

    async def _ask(self, ask: Ask | Rubbish, manner: Manner, *, is_steady: bool = False) -> None:
        if isinstance(ask, Rubbish):
            answer = await exchange(self.server.port, ask, manner, _REFUSED_WITHIN_S * 3)
            verdict = judge_rubbish(ask, answer, _REFUSED_WITHIN_S, self.faults.log)
            verdict = replace(verdict, outcome=f"rubbish: {verdict.outcome}")
            self.report.take(f"rubbish: {ask.name}", verdict, answer, ask.path)
            return
        self._crowd(len(ask.texts))
        answer = await exchange(self.server.port, ask, manner, ask.deadline_s + 10 * GRACE_S)
        verdict = judge(ask, answer, self.faults.log)
        if answer.end == "left" and answer.status in (0, 200) and manner.leaves != "sending":
            asyncio.get_running_loop().call_later(_LINGERS_S, self._crowd, -len(ask.texts))
        else:
            self._crowd(-len(ask.texts))
        if is_steady and answer.end != "left" and not ask.has_own_bounds:
            began_s = self.ends_s - self.plan.seconds
            self.report.parts.note(answer.ended_s - began_s, verdict.outcome == "answered")
        if answer.end != "left":
            took_s = answer.ended_s - answer.sent_s - answer.own_delay_s
            self.report.latest_s = max(self.report.latest_s, took_s - ask.deadline_s)
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
        if head.startswith(b"HTTP/1.1 5") and not head.startswith(
            (b"HTTP/1.1 503", b"HTTP/1.1 505")
        ):
            self.report.violate("raw bytes", f"{head[:100]!r} for {content!r}")
