"""One worker process as the gateway holds it: its queue down, its pipe up, its death."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gateway.pool.death import STATUS_LOST, Cause, Death
from gateway.pool.proc import activity
from gateway.pool.stderr_log import StderrLog
from gateway.pool.template import Template, widen
from shared.config import WorkerConfig
from shared.encoding import decode, encode
from shared.messages import Command, Message
from shared.standard_error import run_with_standard_error

_READ_BYTES = 1 << 16
# From the end of a pipe to that of its process; one that takes longer has closed it, and lives.
_END_S = 0.2
_KILLED_S = 2.0

logger = logging.getLogger(__name__)


class WorkerHandle:
    """One incarnation of a worker. Its queue and its pipe die with it.

    Attributes:
        pid: the process.
        generation: of the template that it was forked from.
        heard: goes up whenever it has sent something.
        exited: resolved once the worker's end of the pipe is closed, which means it is dead.
    """

    def __init__(
        self, process: Any, queue: Any, pipe: Any, stderr: StderrLog, generation: int
    ) -> None:
        """Take over a started process; see `start`."""
        self._process = process
        self._queue = queue
        self._pipe = pipe
        self._stderr = stderr
        self._partial = b""
        self.pid: int = process.pid
        self.generation = generation
        self.heard = 0
        self._verdict: Death | None = None
        self._is_reaped = False
        self.exited: asyncio.Future[None]

    @classmethod
    def start(
        cls, template: Template, target: Callable[..., None], name: str, config: WorkerConfig
    ) -> "WorkerHandle":
        """Start a process; blocks while the template loads, so call it off the event loop.

        Raises:
            OSError: the template died, or the process could not be started.
        """
        try:
            context = template.context
            queue = context.SimpleQueue()
            widen(queue)
            reader, writer = context.Pipe(duplex=False)
            stderr, stderr_writer = context.Pipe(duplex=False)
            process = context.Process(
                target=run_with_standard_error,
                args=(stderr_writer, target, config, queue, writer),
                name=name,
                daemon=True,
            )
            generation = template.start(process)
        except EOFError as error:
            raise ConnectionError("the template died while it loaded the model") from error
        # Ours must be closed: the pipe reports the worker's death when the last writer is gone.
        writer.close()
        stderr_writer.close()
        os.set_blocking(reader.fileno(), False)
        return cls(process, queue, reader, StderrLog(name, stderr), generation)

    def attach(self, on_message: Callable[[Message], None]) -> None:
        """Begin to read; ``on_message`` gets each message, on the running event loop.

        A worker whose message it refuses with a `ValueError` is killed.
        """
        loop = asyncio.get_running_loop()
        self.exited = loop.create_future()
        descriptor = self._pipe.fileno()
        loop.add_reader(descriptor, self._read, descriptor, on_message)
        self._stderr.attach()

    def _read(self, descriptor: int, on_message: Callable[[Message], None]) -> None:
        try:
            chunk = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(descriptor)
            self._stderr.close()
            if not self.exited.done():
                self.exited.set_result(None)
            return
        self.heard += 1
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        try:
            for line in lines:
                on_message(decode(line))
        except ValueError:
            logger.exception("pid %d is killed: it sent what no worker may send", self.pid)
            self.kill(Death(Cause.CRASHED, "sent what no worker may send"))

    def send(self, command: Command) -> None:
        """Put a command on the worker's queue."""
        self._queue.put(encode(command))

    def kill(self, verdict: Death | None = None) -> None:
        """End the process at once.

        Args:
            verdict: what is to be said of its death; None leaves that to how it ends.
        """
        self._verdict = self._verdict or verdict
        if not self._is_reaped:
            # Not by `multiprocess`: it believes a process dead whose fork server is.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> tuple[int | None, Death]:
        """Wait for the end of a process that is dead or dying, and free what it held.

        Returns:
            Its exit status, negative for a signal, None if it could not be learned; and its death.
        """
        if not self._ends_within(_END_S):
            self.kill(Death(Cause.CRASHED, "closed its pipe"))
            self._ends_within(_KILLED_S)
        self._is_reaped = True
        self._pipe.close()
        self._queue.close()
        exitcode: int | None = self._process.exitcode
        if exitcode is not None:
            self._process.close()
        return exitcode, self._verdict or Death.of(exitcode)

    def _ends_within(self, seconds: float) -> bool:
        """Whether the process has ended, after so long at most."""
        until_s = time.monotonic() + seconds
        self._process.join(seconds)
        if self._process.exitcode not in (None, STATUS_LOST):
            return True  # with its status the fork server has told of its end
        while self._lives() and time.monotonic() < until_s:
            time.sleep(0.001)  # its fork server is dead, and nobody else says when it ends
        return not self._lives()

    def _lives(self) -> bool:
        return activity(self.pid).state not in ("", "Z", "X")
