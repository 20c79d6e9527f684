"""What a worker's C library writes to standard error, as lines in the log."""

import asyncio
import logging
import os
import time

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_LINE_BYTES = 1000
# A backtrace is logged whole; a flood is not, and is read slowly, so that others are served.
_BURST_LINES = 200
_LINES_PER_S = 10.0
_PAUSE_S = 0.05
# Of a dead worker; its pipe holds no more than this.
_LAST_READS = 32


class StderrLog:
    """Reads the pipe of one worker; however much comes, little is held, and little logged."""

    def __init__(self, name: str, pipe: int) -> None:
        """Prepare; `close` closes the pipe."""
        os.set_blocking(pipe, False)
        self._name = name
        self._pipe = pipe
        self._line = b""
        self._is_cut = False
        self._room = float(_BURST_LINES)
        self._room_s = time.monotonic()
        self._left_out = 0
        self._pause: asyncio.TimerHandle | None = None

    def attach(self) -> None:
        """Begin to read, on the running event loop."""
        self._pause = None
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def close(self) -> None:
        """Log what is still in the pipe, the last words of a dead worker, and close it."""
        if self._pipe < 0:
            return
        asyncio.get_running_loop().remove_reader(self._pipe)
        if self._pause is not None:
            self._pause.cancel()
        reads = 0
        while self._take() > 0 and reads < _LAST_READS:
            reads += 1
        if self._line:
            self._end_line()
        self._tell_left_out()
        os.close(self._pipe)
        self._pipe = -1

    def _read(self) -> None:
        n_bytes = self._take()
        is_flood = self._room < 1
        if n_bytes and not is_flood:
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
        self._room += (now_s - self._room_s) * _LINES_PER_S
        self._room = min(self._room, float(_BURST_LINES))
        self._room_s = now_s
        *lines, rest = chunk.split(b"\n", int(self._room))
        for line in lines:
            self._add(line)
            self._end_line()
        self._room -= len(lines)
        if self._room < 1 and b"\n" in rest:
            self._left_out += rest.count(b"\n")
            self._line, rest = b"", rest.rpartition(b"\n")[2]
        self._add(rest)
        return len(chunk)

    def _add(self, part: bytes) -> None:
        room = _LINE_BYTES - len(self._line)
        self._is_cut = self._is_cut or len(part) > room
        self._line += part[:room]

    def _end_line(self) -> None:
        text = self._line.decode(errors="backslashreplace").rstrip()
        if text:
            self._tell_left_out()
            shown = "".join(
                c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
            )
            mark = " ..." if self._is_cut else ""
            logger.warning("%s stderr: %s%s", self._name, shown, mark)
        self._line, self._is_cut = b"", False

    def _tell_left_out(self) -> None:
        if self._left_out:
            logger.warning("%s stderr: %d lines are left out", self._name, self._left_out)
            self._left_out = 0
