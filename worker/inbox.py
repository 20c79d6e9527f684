"""The reading side of a worker's queue of commands."""

import select
from typing import Any


class Inbox:
    """A `multiprocess.SimpleQueue`, and a cheap look whether there is something in it.

    The loop looks before each evaluation, and the queue's own way to do so takes ten times as long.
    """

    def __init__(self, queue: Any) -> None:
        """Read from ``queue``, as its only reader."""
        self._queue = queue
        self._descriptor: int = queue._reader.fileno()
        self._arrived = select.poll()
        self._arrived.register(self._descriptor, select.POLLIN)

    def get(self) -> bytes:
        """The next encoded command; blocks until there is one."""
        command: bytes = self._queue.get()
        return command

    def empty(self) -> bool:
        """Whether `get` would block."""
        return not self._arrived.poll(0)

    def fileno(self) -> int:
        """The descriptor that becomes readable with a command."""
        return self._descriptor
