"""Starts worker processes, one at a time, and bounds how long that may take."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.pool.handle import WorkerHandle
from gateway.pool.proc import activity
from gateway.pool.template import Template
from shared.config import WorkerConfig

# Of a fork from a template that has its model: these seconds, or so many times what is usual.
_LEAST_FORK_S = 10.0
_TIMES_USUAL = 50.0
_WEIGHT = 0.2


class StartTimeout(Exception):
    """A worker was not started in time; the text says what took too long."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker's process that has just been started.

    Attributes:
        handle: the process.
        began_s: when its start began, by `time.monotonic`.
        is_fork: whether there was a template with a model all the while, so that nothing was
            loaded first.
        template_pid: the process that loads the model, if this is a fork of it.
        limit: in how many seconds from now on it must have its model, and what is to be said after
            them; None for no bound.
    """

    handle: WorkerHandle
    began_s: float
    is_fork: bool
    template_pid: int | None
    limit: tuple[float, str] | None


class Starter:
    """Forks workers from the template; the first of a template waits until that has its model."""

    def __init__(
        self,
        template: Template,
        target: Callable[..., None],
        config: WorkerConfig,
        timeout_s: float,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            template: what workers are forked from.
            target: body of a worker process.
            config: what each gets.
            timeout_s: in which the model must be loaded; 0 for no bound.
        """
        self._template = template
        self._target = target
        self._config = config
        self._timeout_s = timeout_s
        self._usual_s = 0.0
        self._loaded_pid: int | None = None
        self._lock = asyncio.Lock()
        self._stopped: set[int] = set()

    async def start(
        self, name: str, closing: asyncio.Event, begun: Callable[[WorkerHandle], None]
    ) -> Started | None:
        """Start a process.

        Args:
            name: what it is called.
            closing: set when the pool closes.
            begun: called with the process as soon as there is one, in another thread: whoever
                waits here may have been cancelled meanwhile.

        Returns:
            The process; None if the pool closes.

        Raises:
            StartTimeout: it took too long. The templates have been ended.
            OSError: it could not be started, or the template has died.
        """

        def start() -> tuple[WorkerHandle, int | None]:
            handle = WorkerHandle.start(self._template, self._target, name, self._config)
            begun(handle)
            return handle, self._template.pids[0] if handle.generation == 0 else None

        async with self._lock:
            if closing.is_set():
                return None
            loaded_pid, began_s = self._loaded(), time.monotonic()
            is_fork = loaded_pid is not None
            starting = asyncio.ensure_future(asyncio.to_thread(start))
            await asyncio.wait({starting}, timeout=self._limit_s(is_fork) or None)
            if not starting.done() and self._template.kill_newest():
                # It goes on with the first.
                await asyncio.wait({starting}, timeout=self._limit_s(is_fork) or None)
            if is_fork and self._loaded() != loaded_pid:
                # Another had to take the place of the template, and loads.
                is_fork = False
                if not starting.done():
                    await asyncio.wait({starting}, timeout=self._limit_s(is_fork) or None)
            if not starting.done():
                # Ends the start, which waits for the template, with an error.
                self._template.kill()
                with contextlib.suppress(Exception):
                    (await starting)[0].kill()
                if not closing.is_set():
                    await asyncio.to_thread(self._template.stop)
                raise StartTimeout(self._too_long(is_fork))
            handle, template_pid = starting.result()
            limit_s = self._limit_s(is_fork)
            limit = (limit_s, self._too_long(is_fork)) if limit_s else None
            return Started(handle, began_s, is_fork, template_pid, limit)

    async def reload(self) -> None:
        """Have the next start load the model, and not fork from a failure to do so."""
        async with self._lock:
            await asyncio.to_thread(self._template.stop)

    def note_ready(self, started: Started, start_s: float) -> None:
        """A worker has its model, so many seconds after its start began."""
        if started.is_fork:
            self._usual_s += _WEIGHT * (start_s - self._usual_s)
        if started.template_pid is not None:
            self._loaded_pid = started.template_pid

    def look(self) -> bool:
        """End a template that was stopped, and was so already at the last call.

        Returns:
            Whether one is stopped that is to be looked at again soon.
        """
        pids = {pid for pid in self._template.pids if pid is not None}
        stopped = {pid for pid in pids if activity(pid).state == "T"}
        for pid in stopped & self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._stopped = stopped
        return bool(stopped)

    def _loaded(self) -> int | None:
        """The process that has loaded the model, if it lives and is known to have done so."""
        pid = self._template.pids[0]
        if pid is None or pid != self._loaded_pid or activity(pid).state in ("Z", "X"):
            return None
        return pid

    def _limit_s(self, is_fork: bool) -> float:
        if is_fork:
            return max(_LEAST_FORK_S, _TIMES_USUAL * self._usual_s)
        return self._timeout_s

    def _too_long(self, is_fork: bool) -> str:
        limit_s = self._limit_s(is_fork)
        if is_fork:
            return f"no worker could be forked from the template within {limit_s:g} s"
        return f"the model did not load within {limit_s:g} s, which is START_TIMEOUT"
