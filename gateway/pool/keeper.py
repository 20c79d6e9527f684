"""Keeps a worker process in its place: starts it, notices its death, starts the next."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Literal, Protocol

from gateway.pool.base import WorkerStatus
from gateway.pool.handle import WorkerHandle
from shared.messages import (
    Delta,
    Event,
    Failed,
    Finished,
    LoadFailed,
    Message,
    ModelInfo,
    Prefilled,
    Ready,
)

logger = logging.getLogger(__name__)

# A worker that dies sooner than this after it was started has died young.
_YOUNG_S = 1.0
_FAILURES_UNTIL_FAILED = 3
_MAX_BACKOFF_S = 30.0


class Listener(Protocol):
    """Who is told what becomes of a worker."""

    def on_ready(self, worker_id: int, model: ModelInfo, start_s: float) -> None:
        """A new process has its model, so many seconds after its start."""

    def on_event(self, event: Event) -> None:
        """It sent an event of a generation, which names the generation."""

    def on_death(self, worker_id: int) -> None:
        """It is dead, whether it had been ready or not."""

    def on_failed(self) -> None:
        """No process can be started at present; it is tried again, ever more seldom."""


class WorkerKeeper:
    """One place for a worker; processes come and go in it.

    Attributes:
        worker_id: number of the place, 0-based.
        state: ``ready`` once the process has its model; ``failed`` if that has not come about
            for several processes in a row.
        handle: the process, if there is one.
        restarts: how many processes have died, those not counted that `renew` has ended.
        reason: why the last one could not be used, if so.
        renewing: `renew` has ended one, and the next is not ready yet.
    """

    def __init__(
        self,
        worker_id: int,
        start: Callable[[str], WorkerHandle],
        reload: Callable[[], None],
        listener: Listener,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            worker_id: number of the place.
            start: starts a process of the given name; blocks; raises `OSError`.
            reload: makes the next start load the model again; blocks, never during a start.
            listener: who is told.
        """
        self.worker_id = worker_id
        self.state: Literal["starting", "ready", "failed"] = "starting"
        self.handle: WorkerHandle | None = None
        self.restarts = 0
        self.reason: str | None = None
        self._start = start
        self._reload = reload
        self._listener = listener
        self._newest: WorkerHandle | None = None
        self._load_failed = False
        self.renewing = False
        self._started = 0.0

    async def keep(self, start_lock: asyncio.Lock, closing: asyncio.Event) -> None:
        """Keep a process here until the pool closes.

        Args:
            start_lock: only one process is started at a time.
            closing: set when the pool closes.
        """
        failures = 0
        while True:
            was_ready = await self._run(start_lock, closing)
            if closing.is_set():
                return
            if self.renewing and was_ready:
                continue
            self.renewing = False
            self.restarts += 1
            young = not was_ready or time.monotonic() - self._started < _YOUNG_S
            failures = failures + 1 if young else 0
            if not was_ready and (self._load_failed or failures >= _FAILURES_UNTIL_FAILED):
                logger.error("worker %d cannot be started: %s", self.worker_id, self.reason)
                self.state = "failed"
                self._listener.on_failed()
            # The first death is answered at once.
            if failures > 1 or self.state == "failed":
                backoff_s = min(_MAX_BACKOFF_S, 0.1 * 2 ** min(failures, 10))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(closing.wait(), backoff_s)

    def status(self, running: bool, cached_tokens: int) -> WorkerStatus:
        """The worker as `PoolStatus` has it.

        Args:
            running: whether it runs a generation.
            cached_tokens: how many tokens its KV cache holds.
        """
        ready: Literal["running", "idle"] = "running" if running else "idle"
        return WorkerStatus(
            worker_id=self.worker_id,
            state=ready if self.state == "ready" else self.state,
            pid=self.handle.pid if self.handle else None,
            restarts=self.restarts,
            reason=self.reason,
            cached_tokens=cached_tokens if self.state == "ready" else 0,
            generation=self.handle.generation if self.handle else 0,
        )

    def renew(self) -> None:
        """Replace the process, which runs nothing, by a new one from the newest template."""
        if self.handle is not None:
            self.renewing = True
            self.handle.kill()

    def kill(self) -> None:
        """End the process at once, also one whose start nobody waits for any more."""
        if self._newest is not None:
            self._newest.kill()

    async def _run(self, start_lock: asyncio.Lock, closing: asyncio.Event) -> bool:
        """Start a process and serve until it is dead; tells whether it was ever ready."""
        self._load_failed = False
        try:
            async with start_lock:
                if closing.is_set():
                    return False
                self._started = time.monotonic()
                handle = await asyncio.to_thread(self._start_process)
        except Exception as error:  # whatever it is, the next try is due
            self.reason = f"a worker could not be started: {error}"
            return False
        self.handle = handle
        handle.attach(self._on_message)
        if closing.is_set():
            handle.kill()
        await handle.exited
        was_ready = self.state == "ready"
        self.handle = None
        if was_ready:
            self.state = "starting"
        self._listener.on_death(self.worker_id)
        exitcode = await asyncio.to_thread(handle.reap)
        self._newest = None
        if self._load_failed:
            # The next try is to load the model, not to fork from the failure.
            async with start_lock:
                await asyncio.to_thread(self._reload)
        elif not was_ready:
            self.reason = f"a worker died before it was ready (exit status {exitcode})"
        if not (closing.is_set() or (self.renewing and was_ready)):
            logger.warning(
                "worker %d (pid %d) died, exit status %s", self.worker_id, handle.pid, exitcode
            )
        return was_ready

    def _start_process(self) -> WorkerHandle:
        # Noted in this thread: the task that waits for it may have been cancelled meanwhile.
        self._newest = self._start(f"worker-{self.worker_id}")
        return self._newest

    def _on_message(self, message: Message) -> None:
        match message:
            case Prefilled() | Delta() | Finished() | Failed():
                self._listener.on_event(message)
            case Ready(model):
                self.state, self.reason, self.renewing = "ready", None, False
                self._listener.on_ready(self.worker_id, model, time.monotonic() - self._started)
            case LoadFailed(reason):
                self._load_failed, self.reason = True, reason
            case _:
                raise ValueError(f"a worker sent a command: {message!r}")
