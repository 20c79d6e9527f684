"""Keeps a process in its place: starts it, notices its death, starts the next."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, Protocol

from gateway.pool.base import WorkerStatus
from gateway.pool.deaths import Backoff, Cause, Death
from gateway.pool.job import Job
from gateway.pool.process import WorkerProcess
from gateway.pool.zygote import NotLoaded, Zygote
from shared.logging import request_id_var
from shared.messages import LoadFailed, Message, ModelInfo, Ready

logger = logging.getLogger(__name__)

# A process that dies sooner than this after it was started has died young.
_YOUNG_S = 1.0
_FAILURES_UNTIL_FAILED = 3
# For the end of a process that was killed.
_END_S = 1.0


class Listener(Protocol):
    """Hears what becomes of a process."""

    @property
    def running(self) -> Mapping[str, Job]:
        """The jobs that run, by request id: their text goes straight to them."""

    def on_ready(self, keeper: "Keeper", model: ModelInfo) -> None:
        """A new process has its model."""

    def on_message(self, keeper: "Keeper", message: Message) -> None:
        """It has sent something else than text; a `ValueError` if no such process may send it."""

    def on_gone(self, keeper: "Keeper") -> None:
        """It is dying, whether it had been ready or not; why is not known yet."""

    def on_death(self, keeper: "Keeper", death: Death) -> None:
        """It is dead, or there has never been one: then without `on_gone`."""

    def on_failed(self) -> None:
        """No process can be started at present; it is tried again, ever more seldom."""


class Keeper:
    """One place for a process; processes come and go in it."""

    def __init__(
        self,
        name: str,
        number: int,
        zygote: Zygote,
        target: Callable[..., None],
        listener: Listener,
        *,
        most_backoff_s: float = 30.0,
    ) -> None:
        self.name = name
        #: of the place, 0-based
        self.number = number
        #: ``ready`` once the process has its model; ``failed`` if several in a row have not got it
        self.state: Literal["starting", "ready", "failed"] = "starting"
        self.process: WorkerProcess | None = None
        #: how many processes have died
        self.restarts = 0
        #: why the last one could not be used, if so
        self.reason: str | None = None
        self._zygote = zygote
        self._target = target
        self._listener = listener
        self._backoff = Backoff(0.05, most_backoff_s)
        # There is no hope for the next process, so that the place has failed at once.
        self._is_hopeless = False
        self._expiry: asyncio.TimerHandle | None = None
        self._began_s = 0.0

    async def keep(self, closing: asyncio.Event) -> None:
        """Keep a process here until the pool closes; ``closing`` is set then."""
        request_id_var.set("")  # the pool may have been started by a request, for the model's sake
        while True:
            was_ready, death = await self._run(closing)
            if closing.is_set():
                return
            self.restarts += 1
            is_young = time.monotonic() - self._began_s < _YOUNG_S and not death.is_external
            self._backoff.note(is_failure=is_young or not was_ready)
            try:
                self._listener.on_death(self, death)
            except Exception:
                logger.exception("what %s ran could not be saved", self.name)
            failures = self._backoff.failures
            if not was_ready and (self._is_hopeless or failures >= _FAILURES_UNTIL_FAILED):
                logger.error("%s cannot be started: %s", self.name, self.reason)
                self.state = "failed"
                self._listener.on_failed()
            await self._backoff.wait(closing)

    def status(self, n_running: int, cached_tokens: int) -> WorkerStatus:
        """The place as `gateway.pool.base.PoolStatus` has it."""
        ready: Literal["running", "idle"] = "running" if n_running else "idle"
        return WorkerStatus(
            worker_id=self.number,
            state=ready if self.state == "ready" else self.state,
            pid=self.process.pid if self.process else None,
            restarts=self.restarts,
            reason=self.reason,
            running=n_running,
            cached_tokens=cached_tokens,
            memory_bytes=self.process.memory_bytes if self.process else None,
        )

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()

    async def _run(self, closing: asyncio.Event) -> tuple[bool, Death]:
        """Serve by one process until it is dead; whether it was ever ready, and its death."""
        was_ready, self._is_hopeless = False, False
        try:
            process = await WorkerProcess.start(self._zygote, self._target, self.name)
            self._began_s = time.monotonic()
            self.process = process
            process.attach(self._on_message, self._listener.running)
            if closing.is_set():
                process.kill()
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(self._zygote.fork_s, self._expire, process)
            await process.exited
            was_ready = self.state == "ready"
            self._leave()
            death = await process.reap()
        except Exception as error:  # whatever it is, the next process is due
            return False, await self._lose(error)
        if not was_ready:
            death = replace(death, cause=Cause.START_FAILED)
            if not self._is_hopeless:
                self.reason = f"{self.name} died before it was ready (exit status {death.status})"
        if not closing.is_set():
            logger.warning(
                "%s (pid %d) %s; exit status %s", self.name, process.pid, death.why, death.status
            )
        return was_ready, death

    async def _lose(self, error: Exception) -> Death:
        """There is no process, or it was lost by a mistake."""
        self._is_hopeless = isinstance(error, NotLoaded)
        if self._is_hopeless:
            self.reason = str(error)
        elif isinstance(error, OSError):
            self.reason = f"{self.name} was not forked: {error}"
        else:
            logger.exception("%s was lost by a mistake of ours", self.name, exc_info=error)
            self.reason = f"{type(error).__name__}: {error}"
        if self.process is not None:
            self.process.kill()
            await asyncio.wait((self.process.exited,), timeout=_END_S)
            self._leave()
        return Death(Cause.START_FAILED, self.reason)

    def _leave(self) -> None:
        """The process is of no use any more."""
        self._cancel_expiry()
        self.process = None
        if self.state == "ready":
            self.state = "starting"
        self._listener.on_gone(self)

    def _expire(self, process: WorkerProcess) -> None:
        self._is_hopeless = True
        self.reason = f"{self.name} was not ready within {self._zygote.fork_s:g} s"
        process.kill(Death(Cause.START_FAILED, "was not ready in time"))

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()

    def _on_message(self, message: Message) -> None:
        match message:
            case Ready(model):
                self._cancel_expiry()
                self.state, self.reason = "ready", None
                self._listener.on_ready(self, model)
            case LoadFailed(reason):
                self._is_hopeless, self.reason = True, reason
            case _:
                self._listener.on_message(self, message)
