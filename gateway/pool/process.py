"""One worker process: commands down a pipe, events up another, its standard error, its death."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from gateway.pool.faults import Cause, Death
from gateway.pool.job import Job
from gateway.pool.stderr_log import StderrLog
from gateway.pool.zygote import Zygote
from gateway.pool.zygote_process import Child
from shared.encoding import decode, encode
from shared.messages import Command, Delta, Failed, Finished, Message, Prefilled

_READ_BYTES = 1 << 16
# From the end of a pipe to that of its process; one that takes longer has closed it, and lives.
_END_S = 0.2
_KILLED_S = 2.0

logger = logging.getLogger(__name__)


class Outgoing:
    """The writing end of a pipe; what the pipe does not take waits here, and nothing blocks."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._unsent = bytearray()

    def send(self, line: bytes) -> None:
        """Write a line, now or as soon as there is room. Nobody may be left to read it."""
        if self._unsent:
            self._unsent += line
            self._unsent += b"\n"
            return
        line += b"\n"
        n_written = self._write(line)
        if n_written < len(line):
            self._unsent += line[n_written:]
            asyncio.get_running_loop().add_writer(self._pipe, self._flush)

    def close(self) -> None:
        if self._pipe >= 0:
            self._forget()
            os.close(self._pipe)
            self._pipe = -1

    def _flush(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            self._forget()

    def _forget(self) -> None:
        if self._unsent or self._pipe >= 0:
            with suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_writer(self._pipe)
        self._unsent.clear()

    def _write(self, line: bytes | bytearray) -> int:
        """Write once; how many bytes need not be written any more."""
        try:
            return os.write(self._pipe, line)
        except BlockingIOError:
            return 0
        except OSError:  # the process is dead, which is noticed elsewhere
            return len(line)


class WorkerProcess:
    """One incarnation of a worker. Its pipes die with it."""

    def __init__(self, name: str, child: Child, pipes: dict[str, int]) -> None:
        """Take over a process; see `start`."""
        self.pid = child.pid
        #: goes up whenever it has sent something
        self.heard = 0
        #: resolved once the worker's end of the pipe is closed, which means it is dead
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._child = child
        self._commands = Outgoing(pipes["commands"])
        self._events = pipes["events"]
        self._alive = pipes["alive"]
        self._stderr = StderrLog(name, pipes["standard_error"])
        self._partial = b""
        self._jobs: dict[str, Job] = {}
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

    def attach(
        self,
        on_message: Callable[[Message], None],
        on_event: Callable[[Job, Prefilled | Finished | Failed], None] | None = None,
    ) -> None:
        """Begin to read, on the running event loop.

        Args:
            on_message: gets what is no event of a job; if it raises a `ValueError`, the process is
                killed.
            on_event: gets the events of jobs, but for text, which goes straight to its job.
        """
        os.set_blocking(self._events, False)
        asyncio.get_running_loop().add_reader(self._events, self._read, on_message, on_event)
        self._stderr.attach()

    def run(self, job: Job, slot: int) -> None:
        """Have a job run in a slot; its events go to it from now on."""
        self._jobs[job.request.request_id] = job
        self.send(replace(job.request, slot=slot))

    def _read(
        self,
        on_message: Callable[[Message], None],
        on_event: Callable[[Job, Prefilled | Finished | Failed], None] | None,
    ) -> None:
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
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        try:
            for line in lines:
                message = decode(line)
                if type(message) is Delta:
                    job = self._jobs.get(message.request_id)
                    if job is not None:  # else it is not running it, and says so all the same
                        job.put_delta(message)
                elif on_event is not None and isinstance(message, Prefilled | Finished | Failed):
                    self._pass_on(message, on_event)
                else:
                    on_message(message)
        except ValueError:
            logger.exception("pid %d is killed: it sent what no worker may send", self.pid)
            self.kill(Death(Cause.CRASHED, "sent what no worker may send"))

    def _pass_on(
        self,
        event: Prefilled | Finished | Failed,
        on_event: Callable[[Job, Prefilled | Finished | Failed], None],
    ) -> None:
        is_end = not isinstance(event, Prefilled)
        find = self._jobs.pop if is_end else self._jobs.get
        job = find(event.request_id, None)
        if job is not None:
            on_event(job, event)

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

    async def reap(self) -> tuple[int | None, Death]:
        """Wait for the end of a process that is dead or dying, and free what it held.

        Returns:
            Its exit status, negative for a signal, None if it could not be learned; and its death.
        """
        if not await self._ends_within(_END_S):
            self.kill(Death(Cause.CRASHED, "closed its pipe"))
            await self._ends_within(_KILLED_S)
        with suppress(asyncio.TimeoutError):  # of a zygote that is stopped nothing is learned
            await asyncio.wait_for(asyncio.shield(self._child.status), _END_S)
        self._is_reaped = True
        self._commands.close()
        for descriptor in (self._events, self._alive, self._child.descriptor):
            os.close(descriptor)
        status = self._child.status.result() if self._child.status.done() else None
        return status, self._verdict or Death.of(status)

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
