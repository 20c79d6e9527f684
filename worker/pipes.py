"""The two pipes of a worker: commands come down one, events go up the other."""

import os
import select
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from shared.encoding import encode
from shared.messages import Delta, Event, Lifecycle

_READ_BYTES = 1 << 16


class Readable(Protocol):
    """What a wait can be ended by."""

    def fileno(self) -> int: ...


class Inbox:
    """The reading end of the pipe of commands, one in each line."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._arrived = select.poll()
        self._arrived.register(pipe, select.POLLIN)
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []

    def get(self) -> bytes:
        """The next encoded command; blocks until there is one."""
        while not self._lines:
            self._read()
        return self._lines.popleft()

    def empty(self) -> bool:
        """Whether `get` would block. Cheap: the loop looks before each evaluation."""
        while not self._lines:
            if not self._arrived.poll(0):
                return True
            self._read()
        return False

    def fileno(self) -> int:
        return self._pipe

    def _read(self) -> None:
        chunk = os.read(self._pipe, _READ_BYTES)
        if not chunk:
            os._exit(0)  # the gateway is gone
        first, *others = chunk.split(b"\n")
        self._partial.append(first)
        for other in others:
            self._lines.append(b"".join(self._partial))
            self._partial = [other]


class Outbox:
    """The writing end of the pipe of events. It never waits for the gateway to read them.

    A generation goes on while the gateway is slower than the model: what the pipe does not take is
    kept, further text is joined to the last piece that waits, and goes out with it as one `Delta`.
    Nothing is lost or changes places.
    """

    def __init__(self, pipe: int) -> None:
        """Take over the descriptor of a pipe that nobody else writes to."""
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._room = select.poll()
        self._room.register(pipe, select.POLLOUT)
        self._waiting: list[Event | Lifecycle] = []
        # The end of a line whose beginning is in the pipe.
        self._unsent = b""

    def fileno(self) -> int:
        return self._pipe

    def close(self) -> None:
        os.close(self._pipe)

    def send(self, events: Sequence[Event | Lifecycle]) -> None:
        """Write events, in one system call where the pipe has room, or else keep them."""
        is_stuck = bool(self._waiting or self._unsent)
        for event in events:
            self._keep(event)
        # To look is cheaper than to encode all that waits in vain.
        if not is_stuck or self._room.poll(0):
            self._write()

    def drain(self, until: Readable | None = None) -> None:
        """Wait until all is written, or until there is something to be read from ``until``."""
        if not self._waiting and not self._unsent:
            return
        poll = select.poll()
        poll.register(self._pipe, select.POLLOUT)
        if until is not None:
            poll.register(until.fileno(), select.POLLIN)
        while self._waiting or self._unsent:
            if any(fd != self._pipe for fd, _ in poll.poll()):
                return
            self._write()

    def _keep(self, event: Event | Lifecycle) -> None:
        if type(event) is Delta and self._waiting:
            last = self._waiting[-1]
            if type(last) is Delta and last.request_id == event.request_id:
                self._waiting[-1] = last.followed_by(event)
                return
        self._waiting.append(event)

    def _write(self) -> None:
        """Write as much as the pipe takes."""
        if self._unsent:
            self._unsent = self._unsent[self._write_bytes(self._unsent) :]
        if self._waiting and not self._unsent:
            lines = b"".join([encode(event) + b"\n" for event in self._waiting])
            n_written = self._write_bytes(lines)
            if n_written:
                self._waiting.clear()
                self._unsent = lines[n_written:]

    def _write_bytes(self, lines: bytes) -> int:
        """Write once; how many bytes the pipe has taken."""
        try:
            return os.write(self._pipe, lines)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            os._exit(0)  # nobody listens any more
