"""Kills workers and zygotes, stops workers, and measures how soon their successors are there."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scripts.campaign.exchange import Probe
from scripts.campaign.oracle import FaultLog
from scripts.processes import send_signal
from scripts.server import Server, zygotes

_DYING_S = 0.1  # so long a process that was killed may still be seen
_SUCCESSOR_WITHIN_S = 30.0
_POLL_S = 0.004
_YOUNG_S = 1.5


@dataclass(slots=True)
class Schedule:
    """How often what is done, in seconds; 0 for never."""

    kill_s: float = 2.0  #: a worker is killed
    stop_s: float = 10.0  #: a worker is stopped, and never told to go on
    zygote_s: float = 60.0  #: a zygote is killed
    own_share: float = 0.15  #: of the kills, those by a signal that looks like its own doing


@dataclass(slots=True)
class Faults:
    """Does harm to a server, and keeps account of it.

    Each kind of fault draws from a source of its own, so that what one meets does not change what
    another draws.
    """

    server: Server
    schedule: Schedule
    seed: int
    log: FaultLog = field(default_factory=FaultLog)
    counts: Counter[str] = field(default_factory=Counter)
    #: from the kill of a worker to its successor's being ready
    successor_ms: list[float] = field(default_factory=list)
    #: the same, where there was no zygote for some of that time
    after_zygote_ms: list[float] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  #: workers without a successor
    stopped: set[int] = field(default_factory=set)
    _seen_s: dict[int, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Do harm until cancelled."""
        schedule = self.schedule
        await asyncio.gather(
            self._every(schedule.kill_s, self._kill, "kills"),
            self._every(schedule.stop_s, self._stop, "stops"),
            self._every(schedule.zygote_s, self._kill_zygote, "zygotes"),
        )

    async def _every(
        self,
        interval_s: float,
        action: Callable[[random.Random, Probe], Awaitable[None]],
        what: str,
    ) -> None:
        if not interval_s:
            return
        source, probe = random.Random(f"{self.seed} {what}"), Probe(self.server.port)
        due_s = time.monotonic()
        try:
            while True:
                due_s += interval_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                with suppress(OSError):
                    await action(source, probe)
        finally:
            probe.close()

    async def _kill(self, source: random.Random, probe: Probe) -> None:
        is_own = source.random() < self.schedule.own_share
        number = source.choice((signal.SIGSEGV, signal.SIGABRT)) if is_own else signal.SIGKILL
        # One that dies young is replaced after a pause, on purpose, so those are left to chance
        # that another fault hits.
        status = await probe.get()
        workers, now_s = self._workers(status), time.monotonic()
        grown = [w for w in workers if now_s - self._seen_s[w["pid"]] > _YOUNG_S]
        if not grown:
            return
        victim = source.choice(grown)
        is_stopped = victim["pid"] in self.stopped
        had_zygote, killed_s = bool(zygotes(status)), time.monotonic()
        (self.log.own if is_own and not is_stopped else self.log.outside).append(killed_s)
        if not send_signal(victim["pid"], number, self.server.pid):
            return
        self.counts[number.name] += 1
        # One that is stopped dies of its own only when it is told to go on.
        if not (is_stopped and is_own):
            await self._await_successor(probe, victim, killed_s, had_zygote)

    async def _await_successor(
        self, probe: Probe, victim: dict[str, Any], killed_s: float, had_zygote: bool
    ) -> None:
        status = await probe.until(partial(_has_successor, victim), _SUCCESSOR_WITHIN_S, _POLL_S)
        took_ms = (time.monotonic() - killed_s) * 1e3
        # A zygote that was killed a moment ago may not have been gone yet when it was looked for.
        is_without = not had_zygote or any(at >= killed_s - _DYING_S for at in self.log.zygotes)
        if status is None:
            self.missing.append(f"worker {victim['worker_id']} (pid {victim['pid']})")
        else:
            (self.after_zygote_ms if is_without else self.successor_ms).append(took_ms)

    async def _stop(self, source: random.Random, probe: Probe) -> None:
        workers = self._workers(await probe.get())
        workers = [w for w in workers if w["pid"] not in self.stopped]
        if not workers:
            return
        # One that runs something, if there is one: nothing is noticed of the others.
        running = [w for w in workers if w["state"] == "running"]
        victim = source.choice(running or workers)
        self.log.outside.append(time.monotonic())
        if send_signal(victim["pid"], signal.SIGSTOP, self.server.pid):
            self.stopped.add(victim["pid"])
            self.counts["SIGSTOP"] += 1

    async def _kill_zygote(self, _: random.Random, probe: Probe) -> None:
        for pid in zygotes(await probe.get()):
            self.log.zygotes.append(time.monotonic())
            if send_signal(pid, signal.SIGKILL, self.server.pid):
                self.counts["zygote SIGKILL"] += 1

    def _workers(self, status: Any) -> list[dict[str, Any]]:
        workers = [w for w in status["workers"] if w["pid"] and w["state"] in ("idle", "running")]
        now_s = time.monotonic()
        self._seen_s = {w["pid"]: self._seen_s.get(w["pid"], now_s) for w in workers}
        return workers


def _has_successor(victim: dict[str, Any], status: Any) -> bool:
    return any(
        w["worker_id"] == victim["worker_id"]
        and w["pid"] not in (None, victim["pid"])
        and w["state"] in ("idle", "running")
        for w in status["workers"]
    )
