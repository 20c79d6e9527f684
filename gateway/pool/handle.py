"""One worker process as the gateway holds it: its queue down, its pipe up, its death."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from gateway.pool.template import Template, widen
from shared.config import WorkerConfig
from shared.messages import Command, Message, decode, encode

_READ_BYTES = 1 << 16

logger = logging.getLogger(__name__)


class WorkerHandle:
    """One incarnation of a worker. Its queue and its pipe die with it.

    Attributes:
        pid: the process.
        generation: of the template that it was forked from.
        exited: resolved once the worker's end of the pipe is closed, which means it is dead.
    """

    def __init__(self, process: Any, queue: Any, pipe: Any, generation: int) -> None:
        """Take over a started process; see `start`."""
        self._process = process
        self._queue = queue
        self._pipe = pipe
        self._partial = b""
        self.pid: int = process.pid
        self.generation = generation
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
            process = context.Process(
                target=target, args=(config, queue, writer), name=name, daemon=True
            )
            generation = template.start(process)
        except EOFError as error:
            raise ConnectionError("the template died while it loaded the model") from error
        # Ours must be closed: the pipe reports the worker's death when the last writer is gone.
        writer.close()
        os.set_blocking(reader.fileno(), False)
        return cls(process, queue, reader, generation)

    def attach(self, on_message: Callable[[Message], None]) -> None:
        """Begin to read; ``on_message`` gets each message, on the running event loop.

        A worker whose message it refuses with a `ValueError` is killed.
        """
        loop = asyncio.get_running_loop()
        self.exited = loop.create_future()
        descriptor = self._pipe.fileno()
        loop.add_reader(descriptor, self._read, descriptor, on_message)

    def _read(self, descriptor: int, on_message: Callable[[Message], None]) -> None:
        try:
            chunk = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(descriptor)
            if not self.exited.done():
                self.exited.set_result(None)
            return
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        try:
            for line in lines:
                on_message(decode(line))
        except ValueError:
            logger.exception("pid %d is killed: it sent what no worker may send", self.pid)
            self.kill()

    def send(self, command: Command) -> None:
        """Put a command on the worker's queue."""
        self._queue.put(encode(command))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def reap(self) -> int | None:
        """Wait for the end of a process that is dead or dying, and free what it held.

        Returns:
            Its exit status, negative for a signal; None if it could not be learned in time.
        """
        self._process.join(1)
        if self._process.exitcode is None:
            self._process.kill()  # it closed its pipe, but lives
            self._process.join(1)
        self._pipe.close()
        self._queue.close()
        exitcode: int | None = self._process.exitcode
        return exitcode
