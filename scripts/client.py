"""Sends requests to a server, and keeps what comes over the wire with the time of each piece.

Nothing is parsed on the way: a client must not take the cores that a server is measured on.
"""

import json
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import h11

_PIECE_BYTES = 1 << 17
End = Literal["running", "complete", "broken", "left", "silent", "not_connected"]
"""How a response ended.

``broken``: the connection was closed, or something that is not HTTP came, before it was whole.
``left``: the client went on purpose. ``silent``: the client has waited long enough.
"""


@dataclass(slots=True)
class Answer:
    """What a client saw. All times are readings of `time.monotonic`, in seconds."""

    began_s: float  #: before it connected
    sent_s: float = 0.0  #: the last byte of the request had been handed over
    ended_s: float = 0.0  #: the response was at its end, or given up
    end: End = "running"
    why: str = ""  #: if it broke
    status: int = 0  #: 0 if there was none
    headers: dict[str, str] = field(default_factory=dict)  #: names in small letters
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  #: of the body
    trailing: bytes = b""  #: came behind the end of the response
    own_delay_s: float = 0.0  #: the client was slow on purpose
    raw: list[tuple[float, bytes]] = field(default_factory=list)  #: as it came

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    def json(self) -> Any:
        """The body; a `ValueError` if it is not JSON."""
        return json.loads(self.body)

    @property
    def took_s(self) -> float:
        """What the server took, from the end of the request."""
        return self.ended_s - self.sent_s - self.own_delay_s

    def finish(self, end: End, why: str = "") -> None:
        """Note the end, and parse what came; what is not HTTP makes the answer ``broken``."""
        self.ended_s, self.end, self.why = time.monotonic(), end, why
        self.sent_s = self.sent_s or self.ended_s
        try:
            self._parse()
        except h11.RemoteProtocolError as error:
            self.end, self.why = "broken", repr(error)

    def _parse(self) -> None:
        http = h11.Connection(h11.CLIENT)
        # Which request it was makes no difference to how the response is read.
        http.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        for at_s, piece in self.raw:
            http.receive_data(piece)
            for event in _events(http):
                if isinstance(event, h11.Response):
                    self.status = event.status_code
                    self.headers = {k.decode(): v.decode("latin-1") for k, v in event.headers}
                elif isinstance(event, h11.Data):
                    self.pieces.append((at_s, bytes(event.data)))
        if self.end == "complete":
            if http.their_state is not h11.DONE:
                http.receive_data(b"")
                list(_events(http))
            if not self.status:
                raise h11.RemoteProtocolError("closed without an answer")
        if http.their_state is h11.DONE:
            self.trailing = http.trailing_data[0]


def _events(http: h11.Connection) -> Iterator[Any]:
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return
        yield event
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return


class Ending:
    """Tells when the first response in a stream of bytes is whole, for little work."""

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._left: int | None = None  # bytes; None: until the last chunk, or the end
        self._is_chunked = False
        self._tail = b""

    def feed(self, piece: bytes) -> bool:
        if self._head is not None:
            self._head += piece
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return False
            if head.startswith(b"HTTP/1.1 100"):
                self._head = b""
                return bool(body) and self.feed(body)
            self._read_head(head.lower())
            piece = body
        if self._left is not None:
            self._left -= len(piece)
            return self._left <= 0
        self._tail = (self._tail + piece)[-5:]
        return self._is_chunked and self._tail == b"0\r\n\r\n"

    def _read_head(self, head: bytes) -> None:
        self._head = None
        status, *lines = head.split(b"\r\n")
        headers = {name: value.strip() for name, _, value in (x.partition(b":") for x in lines)}
        self._is_chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        if headers.get(b"content-length", b"").isdigit():
            self._left = int(headers[b"content-length"])
        elif status.split()[1:2] in ([b"204"], [b"304"]):
            self._left = 0


def request(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    host: str = "localhost",
) -> bytes:
    """The bytes of a request; JSON unless ``headers`` say another type."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method != "GET":
        lines.append(f"content-length: {len(body)}")
    if body and not any(name.lower() == "content-type" for name, _ in headers):
        lines.append("content-type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """A connection that is kept between requests. Not for several threads at once."""

    def __init__(self, url: str, api_key: str = "", timeout_s: float = 600.0) -> None:
        """Prepare; nothing is connected. A path in front of ``/v1`` in the URL is kept.

        ``timeout_s`` is how long the server may keep silent.

        Raises:
            ValueError: that is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a server's address; write http://HOST:PORT")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._host = parts.netloc.rpartition("@")[2]
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = [("authorization", f"Bearer {api_key}")] if api_key else []
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def get(self, path: str) -> Any:
        """The JSON that a GET answers, whatever its status; None if it is no JSON.

        Raises:
            OSError: the server cannot be reached.
        """
        answer = Answer(time.monotonic())
        self.exchange(answer, "GET", path)
        if answer.end != "complete":
            raise ConnectionError(f"GET {path}: {answer.why}")
        try:
            return answer.json()
        except ValueError:
            return None

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Send JSON and read what comes to its end; failures are the answer's to tell."""
        answer = Answer(time.monotonic())
        self.exchange(answer, "POST", path, json.dumps(body).encode())
        return answer

    def exchange(self, answer: Answer, method: str, path: str, body: bytes = b"") -> None:
        """Fill in an answer, which also tells what came when this is interrupted."""
        content = request(method, self._path + path, body, self._headers, self._host)
        is_reused = self._socket is not None
        try:
            try:
                self._converse(content, answer)
            except ConnectionError:
                if not is_reused or answer.raw:
                    raise
            if is_reused and not answer.raw:
                # A server may close an idle connection just when it is used again.
                self.close()
                self._converse(content, answer)
            answer.finish("complete")
        except TimeoutError:
            answer.finish("silent", "timeout")
        except ConnectionRefusedError:
            answer.finish("not_connected", "connection_refused")
        except OSError:
            answer.finish("broken", "connection_lost")
        finally:
            # Also when a test's end kills us here: an open stream would go on at the server.
            if answer.end != "complete" or answer.headers.get("connection") == "close":
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self._socket = self._tls.wrap_socket(self._socket, server_hostname=self._address[0])
        return self._socket

    def _converse(self, content: bytes, answer: Answer) -> None:
        connected, ending = self._connected(), Ending()
        connected.sendall(content)
        answer.sent_s = time.monotonic()
        while piece := connected.recv(_PIECE_BYTES):
            answer.raw.append((time.monotonic(), piece))
            if ending.feed(piece):
                return


def play(port: int, requests: Sequence[bytes], within_s: float = 600.0) -> list[Answer]:
    """Send requests to this machine's ``port`` all at once, each on a connection of its own."""
    with select.epoll() as poll:
        answers = [Answer(time.monotonic()) for _ in requests]
        sockets = [socket.create_connection(("127.0.0.1", port), within_s) for _ in requests]
        running = {}
        for answer, connected, content in zip(answers, sockets, requests, strict=True):
            poll.register(connected, select.EPOLLIN)
            running[connected.fileno()] = answer, connected, Ending()
            answer.began_s = time.monotonic()
            connected.sendall(content)
            answer.sent_s = time.monotonic()
        ends_s = time.monotonic() + within_s
        while running and (left_s := ends_s - time.monotonic()) > 0:
            for number, _ in poll.poll(left_s):
                answer, connected, ending = running[number]
                with suppress(ConnectionError):
                    if piece := connected.recv(_PIECE_BYTES):
                        answer.raw.append((time.monotonic(), piece))
                        if not ending.feed(piece):
                            continue
                # Parsed below, when nothing is measured any more.
                answer.ended_s = time.monotonic()
                poll.unregister(number)
                connected.close()
                del running[number]
    for answer in answers:
        ended_s = answer.ended_s
        answer.finish("complete" if ended_s else "silent")
        answer.ended_s = ended_s or answer.ended_s
    for _, connected, _ in running.values():
        connected.close()
    return answers


def model_of(connection: Connection) -> str:
    """The id of the first model that the server lists; an `OSError` if it lists none."""
    listed = connection.get("/v1/models")
    try:
        return str(listed["data"][0]["id"])
    except (TypeError, KeyError, IndexError):
        raise ConnectionError("GET /v1/models lists no model") from None
