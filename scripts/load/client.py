"""A small client for streamed responses, with the standard library alone.

gevent makes it cooperative, so that it serves locust's users; the benchmarks run it in threads.
"""

import http.client
import json
import socket
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from scripts.load.outcome import Outcome
from scripts.load.response import StreamedResponse

_PIECE_BYTES = 1 << 16


class Client:
    """One connection to a server, kept alive between requests. Not for several threads at once."""

    def __init__(self, url: str, api_key: str = "", timeout_s: float = 600.0) -> None:
        """Prepare; nothing is connected.

        Args:
            url: ``http://host:port``, or ``https``; a path in front of ``/v1`` is kept.
            api_key: sent as a bearer token if it is not empty.
            timeout_s: how long the server may keep silent.

        Raises:
            ValueError: that is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a server's address; write http://HOST:PORT")
        self._make = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._address = (parts.hostname, parts.port)
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Any:
        """The JSON that a GET answers, whatever its status; None if it is no JSON.

        Raises:
            OSError: the server cannot be reached.
        """
        try:
            body = self._send("GET", path, None).read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"GET {path}: {error!r}") from error
        try:
            return json.loads(body)
        except ValueError:
            return None

    def stream(
        self,
        path: str,
        body: dict[str, Any],
        response: StreamedResponse,
        close_after: int | None = None,
    ) -> None:
        """Send a request and read what comes to its end; failures are the response's to tell.

        Args:
            path: e.g. ``/v1/completions``.
            body: sent as JSON.
            response: takes what comes.
            close_after: close the connection once so many chunks with text are there.
        """
        encoded = json.dumps(body).encode()
        finished = False
        try:
            reply = self._send("POST", path, encoded)
            response.head(
                reply.status,
                reply.getheader("content-type") or "",
                reply.getheader("retry-after"),
            )
            while piece := reply.read1(_PIECE_BYTES):
                response.feed(piece, time.perf_counter())
                if close_after is not None and response.n_chunks >= close_after:
                    response.give_up("disconnected", "", time.perf_counter())
                    return
            response.end(time.perf_counter())
            # At the end of a body of known length `read1` leaves it open, and so the connection in
            # use.
            reply.close()
            finished = True
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            response.give_up("failed", _name_of(error), time.perf_counter())
        finally:
            # Also when a test's end kills us here: an open stream would go on at the server.
            if not finished:
                self.close()

    def close(self) -> None:
        """Close the connection, which ends what it was reading."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection.sock is not None:
                # Closing alone leaves it open as long as the response has a file of it.
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        is_reused = self._connection is not None
        try:
            return self._send_once(method, path, body)
        except (ConnectionError, http.client.RemoteDisconnected):
            # A server may close a connection that was idle just when it is used again.
            self.close()
            if not is_reused:
                raise
            return self._send_once(method, path, body)

    def _send_once(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        if self._connection is None:
            host, port = self._address
            self._connection = self._make(host, port, timeout=self._timeout_s)
        self._connection.request(method, self._path + path, body, self._headers)
        return self._connection.getresponse()


def exchange(
    client: Client,
    name: str,
    path: str,
    body: dict[str, Any],
) -> Outcome:
    """Send a request, read its stream to the end, and tell what came of it."""
    response = StreamedResponse(name, time.perf_counter(), body.get("max_tokens", 0))
    client.stream(path, body, response)
    return response.outcome(time.perf_counter())


def model_of(client: Client) -> str:
    """The id of the first model that the server lists.

    Raises:
        OSError: the server cannot be reached, or it lists none.
    """
    listed = client.get("/v1/models")
    try:
        return str(listed["data"][0]["id"])
    except (TypeError, KeyError, IndexError):
        raise ConnectionError("GET /v1/models lists no model") from None


def _name_of(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "connection_refused"
        case OSError() | http.client.HTTPException():
            return "connection_lost"
        case _:
            return type(error).__name__
