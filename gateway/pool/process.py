"""One worker or preparer process: commands down a pipe, events up another, and its death."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from gateway.pool.deaths import Cause, Death
from gateway.pool.job import Job
from gateway.pool.pipes import Outgoing, StderrLog
from gateway.pool.zygote import Zygote
from gateway.pool.zygote_process import Child
from shared.encoding import decode, encode
from shared.messages import Command, Delta, Message

_READ_BYTES = 1 << 16
# From the end of a pipe to that of its process; one that takes longer has closed it, and lives.
_END_S = 0.2
_KILLED_S = 2.0

logger = logging.getLogger(__name__)


class WorkerProcess:
    """One incarnation of a worker or a preparer; see `start`. Its pipes die with it."""

    def __init__(self, name: str, child: Child, pipes: dict[str, int]) -> None:
        self.pid = child.pid
        #: goes up whenever it has sent something
        self.heard = 0
        #: its private memory, if it has been measured
        self.memory_bytes: int | None = None
        #: resolved once the process has closed its end of the pipe, which means it is dead
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._child = child
        self._commands = Outgoing(pipes["commands"])
        self._events = pipes["events"]
        self._alive = pipes["alive"]
        self._stderr = StderrLog(name, pipes["standard_error"])
        # Pieces of a line whose end has not come; joined once, since it may be long.
        self._partial: list[bytes] = []
        self._verdict: Death | None = None
        self._is_reaped = False

    @classmethod
    async def start(cls, zygote: Zygote, target: Callable[..., None], name: str) -> "WorkerProcess":
        """Fork a process as soon as the zygote has its model.

        Raises:
            NotLoaded: the zygote cannot load it.
            OSError: there can be no process at present.
        """
        ours, theirs = dict[str, int](), dict[str, int]()
        try:
            for what in ("commands", "events", "standard_error", "alive"):
                reader, writer = os.pipe()
                goes_down = what in ("commands", "alive")
                ours[what], theirs[what] = (writer, reader) if goes_down else (reader, writer)
            path = f"{target.__module__}:{target.__qualname__}"
            child = await zygote.fork(name, path, list(theirs.values()))
        except BaseException:
            for descriptor in ours.values():
                os.close(descriptor)
            raise
        finally:
            # Ours must be closed: a pipe reports the worker's death when the last writer is gone.
            for descriptor in theirs.values():
                os.close(descriptor)
        return cls(name, child, ours)

    def attach(self, on_message: Callable[[Message], None], jobs: Mapping[str, Job]) -> None:
        """Begin to read, on the running event loop.

        Args:
            on_message: gets all but text; if it raises a `ValueError`, the process is killed.
            jobs: those that run, by request id; text goes straight to them, or nowhere.
        """
        os.set_blocking(self._events, False)
        asyncio.get_running_loop().add_reader(self._events, self._read, on_message, jobs)
        self._stderr.attach()

    def send(self, command: Command) -> None:
        """Send a command, which may wait here until the worker reads."""
        self._commands.send(encode(command))

    def kill(self, verdict: Death | None = None) -> None:
        """End the process at once.

        Args:
            verdict: what is to be said of its death; None leaves that to how it ends.
        """
        self._verdict = self._verdict or verdict
        if not self._is_reaped:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._child.descriptor, signal.SIGKILL)

    async def reap(self) -> Death:
        """Wait for the end of a process that is dead or dying, and free what it held."""
        if not await self._ends_within(_END_S):
            self.kill(Death(Cause.CRASHED, "closed its pipe"))
            await self._ends_within(_KILLED_S)
        with suppress(asyncio.TimeoutError):  # of a zygote that is stopped nothing is learned
            await asyncio.wait_for(asyncio.shield(self._child.status), _END_S)
        self._is_reaped = True
        self._commands.close()
        for descriptor in (self._events, self._alive, self._child.descriptor):
            os.close(descriptor)
        death = Death.of(self._child.status.result() if self._child.status.done() else None)
        if self._verdict is not None:
            death = replace(self._verdict, status=death.status)
        return death

    def _read(self, on_message: Callable[[Message], None], jobs: Mapping[str, Job]) -> None:
        try:
            chunk = os.read(self._events, _READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._events)
            self._stderr.close()
            if not self.exited.done():
                self.exited.set_result(None)
            return
        self.heard += 1
        first, *others = chunk.split(b"\n")
        self._partial.append(first)
        try:
            for other in others:
                message = decode(b"".join(self._partial))
                self._partial = [other]
                if type(message) is not Delta:
                    on_message(message)
                elif (job := jobs.get(message.request_id)) is not None:
                    job.put_delta(message)
        except ValueError:
            logger.exception("pid %d is killed: it sent what no worker may send", self.pid)
            self.kill(Death(Cause.CRASHED, "sent what no worker may send"))

    async def _ends_within(self, seconds: float) -> bool:
        """Whether the process has ended, after so long at most."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._child.descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            loop.remove_reader(self._child.descriptor)
        return True
