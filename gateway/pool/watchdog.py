"""Finds workers that make no progress, and those that somebody has stopped."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from gateway.pool.death import Cause, Death
from gateway.pool.proc import activity
from gateway.pool.process import WorkerProcess

TICK_S = 0.5
"""Between two looks while something runs. A worker that runs says something about as often."""
_IDLE_TICK_S = 2.0
# So many idle workers are looked at in a tick, so that a tick costs the same with any number.
_IDLE_PER_TICK = 32
# A worker that uses less of a core than this is not computing, but waits for something.
_WAITING_SHARE = 0.05
# One that computes, but has hardly been given a core, gets so many times the limit.
_STARVED_TIMES = 10.0


@dataclass(slots=True, eq=False)
class _Watch:
    """What was seen of a generation that runs.

    Attributes:
        handle: where.
        heard: what the worker had sent by then.
        limit_s: the longest that it may be silent; an evaluation keeps the threads it began with.
        ticks: for how many since it has sent nothing.
        disk_ticks: in how many of them it waited for a disk.
        cpu_s: the CPU time that it had used at the first.
    """

    handle: WorkerProcess
    heard: int
    limit_s: float
    ticks: int = 0
    disk_ticks: int = 0
    cpu_s: float = 0.0


class Watchdog:
    """Looks at the workers twice a second while any of them runs.

    It counts its own ticks, and not what the clock says: while the gateway itself is stopped, or
    gets no core, it does not blame its workers for their silence.
    """

    def __init__(
        self,
        handles: Callable[[], Mapping[int, WorkerProcess]],
        running: Mapping[str, int],
        limit_s: Callable[[], float],
        on_tick: Callable[[], bool],
    ) -> None:
        """Prepare; nothing is watched before `begin`.

        Args:
            handles: gives the processes of those workers that are ready, by worker id.
            running: request id -> worker id; read at each tick.
            limit_s: gives the seconds without progress after which a worker is killed; 0 for never.
            on_tick: called at each tick; says whether the next is to be soon though nothing runs.
        """
        self._handles = handles
        self._running = running
        self._limit_s = limit_s
        self._on_tick = on_tick
        self._watches: dict[str, _Watch] = {}
        self._stopped: set[WorkerProcess] = set()
        self._next_idle = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_busy = True

    def begin(self) -> None:
        """Begin to look, on the running event loop."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self) -> None:
        """Something may run from now on: do not wait as long as is usual while nothing does."""
        if self._timer is not None and not self._is_busy:
            self._timer.cancel()
            self._is_busy = True
            self.begin()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        # First of all: whatever goes wrong in this tick, there is another.
        self._timer = loop.call_later(_IDLE_TICK_S, self._tick)
        handles, stopped = self._handles(), set[WorkerProcess]()
        self._look_at_running(handles, stopped)
        self._look_at_idle(handles, stopped)
        self._stopped = stopped
        is_wanted = self._on_tick()
        self._is_busy = bool(is_wanted or self._running or stopped)
        if self._is_busy:
            self._timer.cancel()
            self._timer = loop.call_later(TICK_S, self._tick)

    def _look_at_running(
        self, handles: Mapping[int, WorkerProcess], stopped: set[WorkerProcess]
    ) -> None:
        limit_s, watches = self._limit_s(), dict[str, _Watch]()
        for request_id, worker_id in self._running.items():
            handle = handles.get(worker_id)
            if handle is None:
                continue
            watch = self._watches.get(request_id)
            if watch is None or watch.handle is not handle or watch.heard != handle.heard:
                watches[request_id] = _Watch(handle, handle.heard, limit_s)
                continue
            watches[request_id] = watch
            watch.limit_s = max(watch.limit_s, limit_s)
            watch.ticks += 1
            state, cpu_s = activity(handle.pid)
            if watch.ticks == 1:
                watch.cpu_s = cpu_s
            if state == "T":
                self._note_stopped(handle, stopped)
                continue
            watch.disk_ticks += state == "D"
            if limit_s and _has_stalled(watch, state, cpu_s - watch.cpu_s):
                silent_s = watch.ticks * TICK_S
                why = f"made no progress for {silent_s:g} s and was ended"
                handle.kill(Death(Cause.STALLED, why))
        self._watches = watches

    def _look_at_idle(
        self, handles: Mapping[int, WorkerProcess], stopped: set[WorkerProcess]
    ) -> None:
        busy = set(self._running.values())
        idle = [handle for worker_id, handle in handles.items() if worker_id not in busy]
        begin = self._next_idle if self._next_idle < len(idle) else 0
        self._next_idle = begin + _IDLE_PER_TICK
        looked_at: Iterable[WorkerProcess] = islice(idle, begin, self._next_idle)
        for handle in {*looked_at, *self._stopped.intersection(idle)}:
            if activity(handle.pid).state == "T":
                self._note_stopped(handle, stopped)

    def _note_stopped(self, handle: WorkerProcess, stopped: set[WorkerProcess]) -> None:
        """Kill a worker that was stopped at the last tick, too: nobody wanted just a moment."""
        if handle in self._stopped:
            handle.kill(Death(Cause.STOPPED, "was stopped by a signal and replaced"))
        else:
            stopped.add(handle)


def _has_stalled(watch: _Watch, state: str, computed_s: float) -> bool:
    """Whether a silent worker would have said something by now if it ever did.

    Args:
        watch: what was seen of it.
        state: what it does now.
        computed_s: CPU time that it has used since the first silent tick.
    """
    limit_s = watch.limit_s
    silent_s = (watch.ticks - watch.disk_ticks) * TICK_S
    if silent_s < limit_s:
        return False
    is_waiting = state != "R" and computed_s < _WAITING_SHARE * silent_s
    return is_waiting or computed_s >= limit_s or silent_s >= _STARVED_TIMES * limit_s
