"""Keeps a worker process in its place: starts it, notices its death, starts the next."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from gateway.pool.base import WorkerStatus
from gateway.pool.faults import Cause, Death
from gateway.pool.job import Job
from gateway.pool.process import WorkerProcess
from gateway.pool.zygote import NotLoaded, Zygote
from shared.logging import request_id_var
from shared.messages import (
    Failed,
    Finished,
    LoadFailed,
    Message,
    ModelInfo,
    Prefilled,
    Progress,
    Ready,
)

logger = logging.getLogger(__name__)

# A worker that dies sooner than this after it was started has died young.
_YOUNG_S = 1.0
_FAILURES_UNTIL_FAILED = 3
_MAX_BACKOFF_S = 30.0


class Listener(Protocol):
    """Who is told what becomes of a worker."""

    def on_ready(self, worker_id: int, process: WorkerProcess, model: ModelInfo) -> None:
        """A new process has its model."""

    def on_event(self, job: Job, event: Prefilled | Finished | Failed) -> None:
        """It sent an event of a job that it runs; text goes straight to the job."""

    def on_gone(self, worker_id: int) -> None:
        """It is dying, whether it had been ready or not; why is not known yet."""

    def on_death(self, worker_id: int, death: Death) -> None:
        """It is dead, or there has never been one: then without `on_gone`."""

    def on_failed(self) -> None:
        """No process can be started at present; it is tried again, ever more seldom."""


class WorkerKeeper:
    """One place for a worker; processes come and go in it."""

    def __init__(
        self, worker_id: int, zygote: Zygote, target: Callable[..., None], listener: Listener
    ) -> None:
        """Prepare; nothing is started. ``target`` is the body of the processes."""
        #: number of the place, 0-based
        self.worker_id = worker_id
        #: ``ready`` once the process has its model; ``failed`` if several in a row have not got it
        self.state: Literal["starting", "ready", "failed"] = "starting"
        self.process: WorkerProcess | None = None
        #: how many processes have died
        self.restarts = 0
        #: why the last one could not be used, if so
        self.reason: str | None = None
        #: private memory of the process, if it has been measured
        self.memory_bytes: int | None = None
        self._zygote = zygote
        self._target = target
        self._listener = listener
        # There is no hope for the next process, so that the place has failed at once.
        self._is_hopeless = False
        self._expiry: asyncio.TimerHandle | None = None
        self._began_s = 0.0

    async def keep(self, closing: asyncio.Event) -> None:
        """Keep a process here until the pool closes; ``closing`` is set then."""
        request_id_var.set("")  # the pool may have been started by a request, for the model's sake
        failures = 0
        while True:
            was_ready, death = await self._run_safely(closing)
            if closing.is_set():
                return
            self.restarts += 1
            is_young = time.monotonic() - self._began_s < _YOUNG_S and not death.is_external
            failures = failures + 1 if is_young or not was_ready else 0
            if not was_ready and (self._is_hopeless or failures >= _FAILURES_UNTIL_FAILED):
                logger.error("worker %d cannot be started: %s", self.worker_id, self.reason)
                self.state = "failed"
                self._listener.on_failed()
            # The first death is answered at once.
            if failures > 1 or self.state == "failed":
                backoff_s = min(_MAX_BACKOFF_S, 0.1 * 2 ** min(failures, 10))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(closing.wait(), backoff_s)

    def status(self, n_running: int, cached_tokens: int) -> WorkerStatus:
        """The worker as `PoolStatus` has it."""
        ready: Literal["running", "idle"] = "running" if n_running else "idle"
        return WorkerStatus(
            worker_id=self.worker_id,
            state=ready if self.state == "ready" else self.state,
            pid=self.process.pid if self.process else None,
            restarts=self.restarts,
            reason=self.reason,
            running=n_running,
            cached_tokens=cached_tokens,
            memory_bytes=self.memory_bytes,
        )

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()

    async def _run_safely(self, closing: asyncio.Event) -> tuple[bool, Death]:
        """The same as `_run`; whatever goes wrong in it, the next process is due."""
        try:
            return await self._run(closing)
        except Exception as error:
            logger.exception("worker %d was lost by a mistake of ours", self.worker_id)
            self.reason = f"{type(error).__name__}: {error}"
        self._cancel_expiry()
        self.kill()
        is_gone = self.process is None
        self.process = self.memory_bytes = None
        if self.state == "ready":
            self.state = "starting"
        death = Death(Cause.START_FAILED, "was lost by a mistake of the server")
        try:
            if not is_gone:
                self._listener.on_gone(self.worker_id)
            self._listener.on_death(self.worker_id, death)
        except Exception:
            logger.exception("what worker %d ran could not be saved", self.worker_id)
        return False, death

    async def _run(self, closing: asyncio.Event) -> tuple[bool, Death]:
        """Start a process and serve until it is dead; whether it was ever ready, and its death."""
        self._is_hopeless = False
        try:
            name = f"worker-{self.worker_id}"
            process = await WorkerProcess.start(self._zygote, self._target, name)
        except Exception as error:  # whatever it is, the next try is due
            self._is_hopeless = isinstance(error, NotLoaded)
            self.reason = str(error) if self._is_hopeless else f"no worker was forked: {error}"
            death = Death(Cause.START_FAILED, self.reason)
            self._listener.on_death(self.worker_id, death)
            return False, death
        self._began_s = time.monotonic()
        self.process = process
        process.attach(self._on_message, self._listener.on_event)
        if closing.is_set():
            process.kill()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(self._zygote.fork_s, self._expire, process)
        await process.exited
        self._cancel_expiry()
        was_ready = self.state == "ready"
        self.process = self.memory_bytes = None
        if was_ready:
            self.state = "starting"
        self._listener.on_gone(self.worker_id)
        exitcode, death = await process.reap()
        if not was_ready:
            death = replace(death, cause=Cause.START_FAILED)
            if not self._is_hopeless:
                self.reason = f"a worker died before it was ready (exit status {exitcode})"
        if not closing.is_set():
            logger.warning(
                "worker %d (pid %d) %s; exit status %s",
                self.worker_id, process.pid, death.why, exitcode,
            )  # fmt: skip
        self._listener.on_death(self.worker_id, death)
        return was_ready, death

    def _expire(self, process: WorkerProcess) -> None:
        self._is_hopeless = True
        self.reason = f"no worker got ready within {self._zygote.fork_s:g} s"
        process.kill(Death(Cause.START_FAILED, "was not ready in time"))

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _on_message(self, message: Message) -> None:
        match message:
            case Ready(model):
                self._cancel_expiry()
                self.state, self.reason = "ready", None
                assert self.process is not None, "it has just spoken"
                self._listener.on_ready(self.worker_id, self.process, model)
            case Progress():
                pass
            case LoadFailed(reason):
                self._is_hopeless, self.reason = True, reason
            case _:
                raise ValueError(f"a worker sent a command: {type(message).__name__}")
