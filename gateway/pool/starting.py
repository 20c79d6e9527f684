"""Starts worker processes, one at a time, and bounds how long that may take."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

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


class Starter:
    """Forks workers from the template; the first of a template waits until that has its model.

    Attributes:
        has_model: whether any worker has reported a model so far.
    """

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
        self.has_model = False
        self._template = template
        self._target = target
        self._config = config
        self._timeout_s = timeout_s
        self._usual_s = 0.0
        self._loaded_pid: int | None = None
        self._lock = asyncio.Lock()
        self._stopped_pid: int | None = None

    async def start(
        self, name: str, closing: asyncio.Event, begun: Callable[[WorkerHandle], None]
    ) -> tuple[WorkerHandle, float] | None:
        """Start a process.

        Args:
            name: what it is called.
            closing: set when the pool closes.
            begun: called with the process as soon as there is one, in another thread: whoever
                waits here may have been cancelled meanwhile.

        Returns:
            The process, and when its start began, by `time.monotonic`; None if the pool closes.

        Raises:
            StartTimeout: it took too long. The template has been ended.
            OSError: it could not be started, or the template has died.
        """

        def start() -> WorkerHandle:
            handle = WorkerHandle.start(self._template, self._target, name, self._config)
            begun(handle)
            return handle

        async with self._lock:
            if closing.is_set():
                return None
            limit_s, began_s = self._limit_s(), time.monotonic()
            starting = asyncio.ensure_future(asyncio.to_thread(start))
            await asyncio.wait({starting}, timeout=limit_s or None)
            if not starting.done():
                # Ends the start, which waits for the template, with an error.
                self._template.kill()
                with contextlib.suppress(Exception):
                    (await starting).kill()
                if not closing.is_set():
                    await asyncio.to_thread(self._template.stop)
                raise StartTimeout(self._too_long(limit_s))
            return starting.result(), began_s

    async def reload(self) -> None:
        """Have the next start load the model, and not fork from a failure to do so."""
        async with self._lock:
            await asyncio.to_thread(self._template.stop)

    def limit_after(self, began_s: float) -> tuple[float, str] | None:
        """How long a process that was started just now may take until it has its model.

        Returns:
            The seconds, and what is to be said after them; None for no bound.
        """
        limit_s = self._timeout_s
        if self.has_model and self._template.pids[0] is not None:
            limit_s = self._fork_limit_s
        if not limit_s:
            return None
        return max(0.0, began_s + limit_s - time.monotonic()), self._too_long(limit_s)

    def note_ready(self, start_s: float) -> None:
        """A worker has its model, so many seconds after its start began."""
        if self.has_model:
            self._usual_s += _WEIGHT * (start_s - self._usual_s)
        self.has_model = True
        self._loaded_pid = self._template.pids[0]

    def look(self) -> None:
        """End the template if it was stopped, and was so already at the last call."""
        pid = self._template.pids[0]
        if pid is None or activity(pid).state != "T":
            self._stopped_pid = None
        elif pid != self._stopped_pid:
            self._stopped_pid = pid
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def _fork_limit_s(self) -> float:
        return max(_LEAST_FORK_S, _TIMES_USUAL * self._usual_s)

    def _limit_s(self) -> float:
        pid = self._template.pids[0]
        is_loaded = pid is not None and pid == self._loaded_pid
        if is_loaded and activity(pid or 0).state not in ("Z", "X"):
            return self._fork_limit_s
        return self._timeout_s

    def _too_long(self, limit_s: float) -> str:
        if limit_s != self._timeout_s:
            return f"no worker could be forked from the template within {limit_s:g} s"
        return f"the model did not load within {limit_s:g} s, which is START_TIMEOUT"
