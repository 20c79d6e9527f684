"""The gateway's ends of two pipes to a process: commands that wait, and standard error as a log."""

import asyncio
import logging
import os
import time

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_LINE_BYTES = 1000
# A backtrace is logged whole; a flood is not, and is read slowly, so that others are served.
_BURST_LINES = 200.0
_LINES_PER_S = 10.0
_PAUSE_S = 0.05
# Of a dead process; its pipe holds no more than this.
_LAST_READS = 32


class Outgoing:
    """The writing end of a pipe; what the pipe does not take waits here, and nothing blocks."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._unsent = bytearray()

    def send(self, line: bytes) -> None:
        """Write a line, now or as soon as there is room. Nobody may be left to read it."""
        line += b"\n"
        if not self._unsent:
            line = line[self._write(line) :]
            if not line:
                return
            asyncio.get_running_loop().add_writer(self._pipe, self._flush)
        self._unsent += line

    def close(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_writer(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
            self._unsent.clear()

    def _flush(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self._pipe)

    def _write(self, line: bytes | bytearray) -> int:
        """Write once; how many bytes need not be written any more."""
        try:
            return os.write(self._pipe, line)
        except BlockingIOError:
            return 0
        except OSError:  # the process is dead, which is noticed elsewhere
            return len(line)


class StderrLog:
    """Logs what the C library of one process writes; of a flood little is held, and little logged.

    `close` closes the pipe.
    """

    def __init__(self, name: str, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._name = name
        self._pipe = pipe
        self._line = b""
        # How many lines may be logged now.
        self._room = _BURST_LINES
        self._room_s = time.monotonic()
        self._left_out = 0
        self._pause: asyncio.TimerHandle | None = None

    def attach(self) -> None:
        """Begin to read, on the running event loop."""
        self._pause = None
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def close(self) -> None:
        """Log what is still in the pipe, the last words of a dead process, and close it."""
        if self._pipe < 0:
            return
        asyncio.get_running_loop().remove_reader(self._pipe)
        if self._pause is not None:
            self._pause.cancel()
        reads = 0
        while self._take() > 0 and reads < _LAST_READS:
            reads += 1
        self._log(self._line)
        self._tell_left_out()
        os.close(self._pipe)
        self._pipe = -1

    def _read(self) -> None:
        n_bytes = self._take()
        if n_bytes and self._room >= 1:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pipe)
        if n_bytes:
            self._pause = loop.call_later(_PAUSE_S, self.attach)

    def _take(self) -> int:
        """Read once; how many bytes there were: 0 at the end, -1 if there are none yet."""
        try:
            chunk = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return -1
        now_s = time.monotonic()
        self._room = min(_BURST_LINES, self._room + (now_s - self._room_s) * _LINES_PER_S)
        self._room_s = now_s
        *lines, rest = (self._line + chunk).split(b"\n", int(self._room))
        self._room -= len(lines)
        for line in lines:
            self._log(line)
        self._left_out += rest.count(b"\n")
        # One byte more than is logged, which tells that there were more.
        self._line = rest.rpartition(b"\n")[2][: _LINE_BYTES + 1]
        return len(chunk)

    def _log(self, line: bytes) -> None:
        text = line[:_LINE_BYTES].decode(errors="backslashreplace").rstrip()
        if text:
            self._tell_left_out()
            shown = "".join(
                c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
            )
            mark = " ..." if len(line) > _LINE_BYTES else ""
            logger.warning("%s stderr: %s%s", self._name, shown, mark)

    def _tell_left_out(self) -> None:
        if self._left_out:
            logger.warning("%s stderr: %d lines are left out", self._name, self._left_out)
            self._left_out = 0
