"""Reads server-sent events as they come over the wire, from any server."""

from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event.

    Attributes:
        name: its type, ``message`` if the server names none.
        text: its data, lines joined by line feeds.
    """

    name: str
    text: str


class EventParser:
    r"""Cuts bytes into events; a piece may end anywhere, even between ``\r`` and ``\n``.

    It follows the standard (three kinds of line end, comments, data of several lines, a byte order
    mark), and forgives what servers do beside it: a last event without its empty line is kept, see
    `end`, and a field ``error: {...}`` is an event of that name.
    """

    def __init__(self) -> None:
        """Begin with a new response."""
        self._rest = b""
        self._name = ""
        self._lines: list[str] = []
        self._at_start = True

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        text = self._rest + piece
        if self._at_start and len(text) >= 3:
            text = text.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        # A carriage return at the end may be half of a line end.
        held = b"\r" if text.endswith(b"\r") else b""
        whole = text[: len(text) - len(held)]
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        self._rest = rest + held
        return [event for line in lines if (event := self._line(line)) is not None]

    def end(self) -> list[ServerEvent]:
        """The event that the end of the response completes, if any."""
        events = self.feed(b"\n\n")
        self._rest = b""
        return events

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._name or "message", "\n".join(self._lines))
            complete = bool(self._lines)
            self._name, self._lines = "", []
            return event if complete else None
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._lines.append(value)
        elif field == "event":
            self._name = value
        elif field == "error":
            self._name = "error"
            self._lines.append(value)
        return None
