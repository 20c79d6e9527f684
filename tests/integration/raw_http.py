"""HTTP by the byte: what no client library would send, and exactly what comes back."""

import contextlib
import http.client
import io
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from tests.serving import DEADLINE_S, Server

HOST = b"Host: localhost\r\n"


@dataclass(frozen=True)
class Answer:
    """A response; ``error`` is the code of an error body, which must have the right shape."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> tuple[int, str]:
        content = json.loads(self.body)
        assert set(content) == {"error"}, content
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        return self.status, content["error"]["code"]

    @property
    def closes(self) -> bool:
        return self.headers["connection"] == "close"


class _Kept(io.BufferedReader):
    """What arrives on a socket; the responses that are read from it do not close it."""

    def close(self) -> None:
        pass


class Connection:
    """A connection to a server."""

    def __init__(
        self, server: Server, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._file = _Kept(socket.SocketIO(self.socket, "r"))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def answer(self, method: str = "POST") -> Answer:
        """The next response, read to its end."""
        response = http.client.HTTPResponse(self.socket, method=method)
        response.fp.close()
        response.fp = self._file
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def answer_begins(self) -> int:
        """The status of the next response, of which no more than the headers is read."""
        status = int(self._file.readline().split()[1])
        while self._file.readline() != b"\r\n":
            pass
        return status

    def is_ended(self) -> bool:
        """Wait for what comes next: True if that is the orderly end of the connection."""
        return self._file.read(1) == b""

    def rest(self) -> bytes:
        """All that still comes, to the orderly end of the connection."""
        return bytes(self._file.read())

    def some(self, n_bytes: int) -> bytes:
        """The next so many bytes; fewer at the end."""
        return bytes(self._file.read(n_bytes))

    def rest_of_chunks(self) -> bytes:
        """All to the end of a body in chunks, with their lengths."""
        content = b""
        while not content.endswith(b"\r\n0\r\n\r\n") and (more := self._file.read1()):
            content += more
        return content

    def leave(self, by_reset: bool = False) -> None:
        """End the connection from this side."""
        if by_reset:
            self.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4)
            )
        self.socket.close()


@contextlib.contextmanager
def connected(
    server: Server, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Connection]:
    """A connection, which is closed at the end of the block."""
    connection = Connection(server, receive_buffer, tls)
    try:
        yield connection
    finally:
        connection.leave()


def post(
    body: bytes = b'{"prompt": "Hi", "max_tokens": 2}',
    *headers: bytes,
    path: str = "/v1/completions",
    version: str = "1.1",
) -> bytes:
    """The bytes of a request with a length."""
    return head(b"Content-Length: %d" % len(body), *headers, path=path, version=version) + body


def head(
    *headers: bytes, path: str = "/v1/completions", method: str = "POST", version: str = "1.1"
) -> bytes:
    """The bytes of a request line and headers, to their end."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return f"{method} {path} HTTP/{version}\r\n".encode() + HOST + lines + b"\r\n"


GET = head(path="/health", method="GET")
