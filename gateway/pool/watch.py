"""Finds processes that make no progress, were stopped, or take too much memory; and free memory."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from gateway.machine import available_memory
from gateway.pool.base import Limits
from gateway.pool.deaths import Cause, Death
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.keeper import Keeper
from gateway.pool.process import WorkerProcess
from gateway.pool.zygote import Zygote
from gateway.pool.zygote_process import ZygoteProcess

_Process: TypeAlias = WorkerProcess | ZygoteProcess

logger = logging.getLogger(__name__)

TICK_S = 0.5
"""Between two looks while something runs. A worker that runs says something about as often."""
_IDLE_TICK_S = 2.0
# So many idle workers are looked at in a tick, so that a tick costs the same with any number.
_IDLE_PER_TICK = 32
# A worker that uses less of a core than this is not computing, but waits for something.
_WAITING_SHARE = 0.05
# One that computes, but has hardly been given a core, gets so many times the limit.
_STARVED_TIMES = 10.0

_MIB = 1 << 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MEASURE_S = 1.0
# Without a bound nothing depends on what is measured.
_UNBOUNDED_MEASURE_S = 10.0
# To measure takes the time to walk through all pages of a process: at most this share of a core.
_SHARE = 0.01


@dataclass(slots=True, eq=False)
class _Silence:
    """A worker that runs something and has sent nothing since it was last looked at."""

    #: `WorkerProcess.heard` then
    heard: int
    #: the longest that it may be silent; an evaluation keeps the threads it began with
    limit_s: float
    #: for how many ticks
    ticks: int = 0
    #: in how many of them it waited for a disk
    disk_ticks: int = 0
    #: the CPU time that it had used at the first
    cpu_s: float = 0.0

    def is_stall(self, state: str, computed_s: float) -> bool:
        """Whether the worker would have said something by now if it ever did.

        Its state is that of `Activity`; ``computed_s`` it has used since the first silent tick.
        """
        silent_s = (self.ticks - self.disk_ticks) * TICK_S
        if silent_s < self.limit_s:
            return False
        is_waiting = state != "R" and computed_s < _WAITING_SHARE * silent_s
        starved_s = _STARVED_TIMES * self.limit_s
        return is_waiting or computed_s >= self.limit_s or silent_s >= starved_s


class Watch:
    """Looks at the processes twice a second while any worker runs something.

    It counts its own ticks, and not what the clock says: while the gateway itself is stopped, or
    gets no core, it does not blame its workers for their silence.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        preparers: Sequence[Keeper],
        zygote: Zygote,
        limits: Limits,
        free_bytes: Callable[[], int | None] = available_memory,
    ) -> None:
        """Prepare; nothing is watched before `begin`.

        The dispatcher knows what runs, and how long a worker may be silent.
        """
        #: there is less free memory than there is to be
        self.is_short = False
        self._dispatcher = dispatcher
        self._preparers = preparers
        self._zygote = zygote
        self._limits = limits
        self._free_bytes = free_bytes
        self._silences: dict[WorkerProcess, _Silence] = {}
        # At the last tick.
        self._stopped: set[_Process] = set()
        self._next_idle = 0
        self._timer: asyncio.TimerHandle | None = None
        self._measuring: list[asyncio.Task[None]] = []
        self._is_busy = True

    def begin(self) -> None:
        """Begin to watch, on the running event loop."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._measuring = [
            asyncio.create_task(self._watch_free_memory()),
            asyncio.create_task(self._watch_workers_memory()),
        ]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._measuring:
            task.cancel()
        await asyncio.gather(*self._measuring, return_exceptions=True)

    def hurry(self) -> None:
        """Something may run from now on: do not wait as long as is usual while nothing does."""
        if self._timer is not None and not self._is_busy:
            self._timer.cancel()
            self._is_busy = True
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    # ---- progress

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        # First of all: whatever goes wrong in this tick, there is another.
        self._timer = loop.call_later(_IDLE_TICK_S, self._tick)
        scheduler = self._dispatcher.scheduler
        busy_ids = scheduler.busy_workers
        busy, idle = list[WorkerProcess](), list[WorkerProcess]()
        for keeper in self._dispatcher.keepers:
            if keeper.process is not None and keeper.state == "ready":
                (busy if keeper.number in busy_ids else idle).append(keeper.process)
        self._stopped = self._look_at_busy(busy) | self._look_at_idle(idle)
        self._is_busy = bool(scheduler.running or scheduler.waiting or self._stopped)
        if self._is_busy:
            self._timer.cancel()
            self._timer = loop.call_later(TICK_S, self._tick)

    def _look_at_busy(self, busy: Sequence[WorkerProcess]) -> set[_Process]:
        """Kill those that have stalled; returns those that are stopped for the first time."""
        stopped, silences = set[_Process](), dict[WorkerProcess, _Silence]()
        limit_s = self._limits.stall_timeout_s
        if limit_s is None:
            limit_s = self._dispatcher.stall_s
        for process in busy:
            silence = self._silences.get(process)
            if silence is None or silence.heard != process.heard:
                silences[process] = _Silence(process.heard, limit_s)
                continue
            silences[process] = silence
            silence.limit_s = max(silence.limit_s, limit_s)
            silence.ticks += 1
            state, cpu_s = activity(process.pid)
            if silence.ticks == 1:
                silence.cpu_s = cpu_s
            if state == "T":
                stopped |= self._note_stopped(process)
                continue
            silence.disk_ticks += state == "D"
            if limit_s and silence.is_stall(state, cpu_s - silence.cpu_s):
                silent_s = silence.ticks * TICK_S
                why = f"made no progress for {silent_s:g} s and was ended"
                process.kill(Death(Cause.STALLED, why))
        self._silences = silences
        return stopped

    def _look_at_idle(self, idle: Sequence[WorkerProcess]) -> set[_Process]:
        """The same of all that runs no generation; of many workers, some in each tick."""
        begin = self._next_idle if self._next_idle < len(idle) else 0
        self._next_idle = begin + _IDLE_PER_TICK
        looked_at: set[_Process] = {*idle[begin : self._next_idle]}
        looked_at |= self._stopped.intersection(idle)
        looked_at |= {keeper.process for keeper in self._preparers if keeper.process is not None}
        if self._zygote.process is not None:
            looked_at.add(self._zygote.process)
        stopped = set[_Process]()
        for process in looked_at:
            if activity(process.pid).state == "T":
                stopped |= self._note_stopped(process)
        return stopped

    def _note_stopped(self, process: _Process) -> set[_Process]:
        """Kill a process that was stopped at the last tick, too: nobody wanted just a moment."""
        if process not in self._stopped:
            return {process}
        if isinstance(process, ZygoteProcess):
            logger.warning("the zygote (pid %d) was stopped by a signal; it is ended", process.pid)
            process.kill()
        else:
            process.kill(Death(Cause.STOPPED, "was stopped by a signal and replaced"))
        return set()

    # ---- memory

    async def _watch_free_memory(self) -> None:
        has_failed = False
        while self._limits.min_free_memory:
            try:
                free = await asyncio.to_thread(self._free_bytes)
                self._note_free_memory(free)
            except Exception:
                # Nothing is refused for what is not known.
                self.is_short = False
                if not has_failed:
                    logger.exception("memory could not be measured; it is tried again and again")
                has_failed = True
            await asyncio.sleep(_MEASURE_S)

    def _note_free_memory(self, free: int | None) -> None:
        least = self._limits.min_free_memory
        was_short, self.is_short = self.is_short, free is not None and free < least
        if self.is_short and not was_short:
            logger.warning(
                "%d MiB of memory are free, less than the %d MiB of MIN_FREE_MEMORY;"
                " nothing new is taken",
                (free or 0) // _MIB, least // _MIB,
            )  # fmt: skip
        elif was_short and not self.is_short:
            logger.warning("there is enough free memory again")

    async def _watch_workers_memory(self) -> None:
        """Measure those that have run something since they were measured last."""
        most = self._limits.max_worker_memory
        measured: dict[int, tuple[WorkerProcess, int]] = {}
        while True:
            for keeper in self._dispatcher.keepers:
                process = keeper.process
                if process is None or keeper.state != "ready":
                    continue
                before, is_running = measured.get(keeper.number), process in self._silences
                measured[keeper.number] = process, process.heard
                if before == measured[keeper.number] and not is_running:
                    continue
                took, cpu_s = await asyncio.to_thread(private_bytes, process.pid)
                process.memory_bytes = took
                if most is not None and took is not None and took > most:
                    why = (
                        f"took {took // _MIB} MiB of memory, more than the {most // _MIB} MiB of"
                        " MAX_WORKER_MEMORY, and was ended"
                    )
                    process.kill(Death(Cause.MEMORY, why))
                await asyncio.sleep(cpu_s / _SHARE)
            await asyncio.sleep(_UNBOUNDED_MEASURE_S if most is None else _MEASURE_S)


# ---- what ``/proc`` says of a process


class Activity(NamedTuple):
    """What a process is doing."""

    #: of its main thread: ``R`` runs or could, ``S`` sleeps, ``D`` waits for a disk, ``T`` was
    #: stopped, ``t`` is held by a debugger, ``Z`` is dead; empty if it is gone or unknown
    state: str
    #: that all its threads have used
    cpu_s: float


def activity(pid: int) -> Activity:
    try:
        # Not `open`: this is called for many processes, on the event loop.
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return Activity("", 0.0)
    try:
        line = os.read(descriptor, 1024)
    except OSError:  # it has ended since
        return Activity("", 0.0)
    finally:
        os.close(descriptor)
    # Its name stands in parentheses, and may hold anything.
    fields = line[line.rfind(b")") + 2 :].split(None, 14)
    return Activity(fields[0].decode(), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def private_bytes(pid: int) -> tuple[int | None, float]:
    """The memory that would be free without a process, if known; CPU seconds that this has cost."""
    began_s, total = time.thread_time(), None
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as lines:
        for line in lines:
            if line.startswith(b"Private_"):
                total = (total or 0) + int(line.split()[1]) * 1024
    return total, time.thread_time() - began_s
