"""Finds workers that make no progress, were stopped, or take too much memory; and free memory."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from gateway.machine import available_memory
from gateway.pool.base import Limits
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.faults import Cause, Death
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.proc import activity, private_bytes
from gateway.pool.process import WorkerProcess
from gateway.pool.zygote import Zygote

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

        Args:
            state: what it does now, see `gateway.pool.proc.Activity`.
            computed_s: CPU time that it has used since the first silent tick.
        """
        silent_s = (self.ticks - self.disk_ticks) * TICK_S
        if silent_s < self.limit_s:
            return False
        is_waiting = state != "R" and computed_s < _WAITING_SHARE * silent_s
        starved_s = _STARVED_TIMES * self.limit_s
        return is_waiting or computed_s >= self.limit_s or silent_s >= starved_s


class Watch:
    """Looks at the workers twice a second while any of them runs.

    It counts its own ticks, and not what the clock says: while the gateway itself is stopped, or
    gets no core, it does not blame its workers for their silence.
    """

    def __init__(
        self,
        keepers: Sequence[WorkerKeeper],
        zygote: Zygote,
        dispatcher: Dispatcher,
        limits: Limits,
        free_bytes: Callable[[], int | None] = available_memory,
    ) -> None:
        """Prepare; nothing is watched before `begin`.

        Args:
            keepers: of the workers.
            zygote: what they are forked from.
            dispatcher: knows what runs, and how long a worker may be silent.
            limits: of memory, and of silence.
            free_bytes: measures the free memory; None where it is not known.
        """
        #: there is less free memory than there is to be
        self.is_short = False
        self._keepers = keepers
        self._zygote = zygote
        self._dispatcher = dispatcher
        self._limits = limits
        self._free_bytes = free_bytes
        self._silences: dict[WorkerProcess, _Silence] = {}
        self._stopped: set[WorkerProcess] = set()
        self._next_idle = self._next_measured = 0
        self._due_s = 0.0
        self._measured: dict[int, tuple[WorkerProcess, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._is_busy = True

    def begin(self) -> None:
        """Begin to watch, on the running event loop."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._measuring = asyncio.create_task(self._measure())

    async def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)

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
        busy_ids = self._dispatcher.scheduler.busy_workers
        busy, idle = list[WorkerProcess](), list[WorkerProcess]()
        for keeper in self._keepers:
            if keeper.process is not None and keeper.state == "ready":
                (busy if keeper.worker_id in busy_ids else idle).append(keeper.process)
        stopped = self._look_at_busy(busy) | self._look_at_idle(idle)
        self._stopped = stopped
        is_wanted = self._zygote.look()
        scheduler = self._dispatcher.scheduler
        self._is_busy = bool(is_wanted or scheduler.running or scheduler.waiting or stopped)
        if self._is_busy:
            self._timer.cancel()
            self._timer = loop.call_later(TICK_S, self._tick)

    def _look_at_busy(self, busy: Sequence[WorkerProcess]) -> set[WorkerProcess]:
        """Kill those that have stalled; returns those that are stopped for the first time."""
        stopped, silences = set[WorkerProcess](), dict[WorkerProcess, _Silence]()
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

    def _look_at_idle(self, idle: Sequence[WorkerProcess]) -> set[WorkerProcess]:
        stopped = set[WorkerProcess]()
        begin = self._next_idle if self._next_idle < len(idle) else 0
        self._next_idle = begin + _IDLE_PER_TICK
        looked_at = islice(idle, begin, self._next_idle)
        for process in {*looked_at, *self._stopped.intersection(idle)}:
            if activity(process.pid).state == "T":
                stopped |= self._note_stopped(process)
        return stopped

    def _note_stopped(self, process: WorkerProcess) -> set[WorkerProcess]:
        """Kill a worker that was stopped at the last tick, too: nobody wanted just a moment."""
        if process not in self._stopped:
            return {process}
        process.kill(Death(Cause.STOPPED, "was stopped by a signal and replaced"))
        return set()

    # ---- memory

    async def _measure(self) -> None:
        has_failed = False
        while True:
            try:
                await self._look_at_memory()
            except Exception:
                # Nothing is refused for what is not known.
                self.is_short = False
                if not has_failed:
                    logger.exception("memory could not be measured; it is tried again and again")
                has_failed = True
            await asyncio.sleep(_MEASURE_S)

    async def _look_at_memory(self) -> None:
        least = self._limits.min_free_memory
        if least:
            free = await asyncio.to_thread(self._free_bytes)
            was_short, self.is_short = self.is_short, free is not None and free < least
            if self.is_short and not was_short:
                logger.warning(
                    "%d MiB of memory are free, less than the %d MiB of MIN_FREE_MEMORY;"
                    " nothing new is taken",
                    (free or 0) // _MIB, least // _MIB,
                )  # fmt: skip
            elif was_short and not self.is_short:
                logger.warning("there is enough free memory again")
        now_s = time.monotonic()
        if now_s >= self._due_s:
            is_bounded = self._limits.max_worker_memory is not None
            interval_s = _MEASURE_S if is_bounded else _UNBOUNDED_MEASURE_S
            took_s = await self._measure_some(interval_s)
            self._due_s = now_s + max(interval_s, took_s / _SHARE)

    async def _measure_some(self, interval_s: float) -> float:
        """Measure workers in turn that have run something since; the CPU seconds it took."""
        spent_s, most = 0.0, self._limits.max_worker_memory
        for _ in self._keepers:
            keeper = self._keepers[self._next_measured % len(self._keepers)]
            self._next_measured += 1
            process = keeper.process
            if process is None or keeper.state != "ready":
                continue
            heard = process.heard
            is_idle = process not in self._silences
            if is_idle and self._measured.get(keeper.worker_id) == (process, heard):
                continue
            took, cpu_s = await asyncio.to_thread(_private_bytes, process.pid)
            spent_s += cpu_s
            if keeper.process is process and took is not None:
                self._measured[keeper.worker_id] = process, heard
                keeper.memory_bytes = took
                if most is not None and took > most:
                    why = (
                        f"took {took // _MIB} MiB of memory, more than the {most // _MIB} MiB of"
                        " MAX_WORKER_MEMORY, and was ended"
                    )
                    process.kill(Death(Cause.MEMORY, why))
            if spent_s > _SHARE * interval_s:
                break
        return spent_s


def _private_bytes(pid: int) -> tuple[int | None, float]:
    began_s = time.thread_time()
    took = private_bytes(pid)
    return took, time.thread_time() - began_s
