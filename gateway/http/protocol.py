"""uvicorn's HTTP protocol, with bounds on the time and memory that a client may take.

uvicorn waits for ever for the rest of a request, keeps headers of any length, takes requests that
RFC 9112 forbids, answers in plain text to what it cannot parse, and resets the connection under the
answer to a request that is still being sent.
"""

import functools
import logging
import math
from asyncio import Transport
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.errors import ApiError
from gateway.http import requests
from gateway.http.requests import invalid, last_response, not_parsed
from shared.errors import ErrorCode

logger = logging.getLogger(__name__)

LINGER_S = 5.0  # a client gets so long to notice that its connection has ended
LINGER_TLS_S = 1.0  # over TLS, where nothing but the headers of its answer tells it so
LINGER_BYTES = 4 << 20  # of what a client sends in spite of that, the most that is dropped
LINGER_FULL_S = 0.25  # after these; one that sends all before it reads would wait for nothing
MOST_REFUSED = 64  # connections beyond `max_connections` that are told why they are refused
MOST_PIPELINED = 8  # requests that wait for the answer to the one before them; each takes memory


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of one server; times are seconds."""

    max_connections: int
    max_header_bytes: int  # of request line and headers, and between two pieces of a body
    receive_timeout_s: float  # from the first byte of a request to its last; 0 for no bound
    keep_alive_timeout_s: float  # of idleness between two requests; 0 ends after one answer
    count_refused: Callable[[ErrorCode], None] = lambda code: None  # what never became a request


class HttpServerState(ServerState):
    """uvicorn's account of its connections, and what bounds them."""

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__()
        self.limits = limits
        self.refused: set[HttpProtocol] = set()  # too many; not among `connections`

    def end_overdue(self, now_s: float) -> None:
        """End what is late, by the event loop's clock; to be called several times a second."""
        for connection in (*self.connections, *self.refused):
            if isinstance(connection, HttpProtocol) and connection.due_s <= now_s:
                connection.overdue()


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    A client that ends its side of it has left. Requests that are sent ahead of the answers to those
    before them wait.
    """

    server_state: HttpServerState
    due_s = math.inf  # by then the client must have done its part

    _answering: RequestResponseCycle | None = None  # `cycle` is the last one that has begun
    _message_open = False  # a request has begun to arrive and has not ended
    _failure: ApiError | None = None  # for the client; nothing is parsed any more
    _is_last = False  # the headers of the present answer say that the connection ends
    _lingering = False  # it has ended on our side; what arrives is dropped
    _n_dropped = 0
    _n_between = 0  # bytes since the last that belongs to a body

    def __init__(self, config: Config, server_state: HttpServerState, app_state: Scope) -> None:
        super().__init__(config, server_state, app_state)  # type: ignore[arg-type]
        self._limits = server_state.limits

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) <= self._limits.max_connections:
            self._expect_within(self._limits.receive_timeout_s)
            return
        self.connections.discard(self)
        if len(self.server_state.refused) >= MOST_REFUSED:
            self._limits.count_refused(ErrorCode.TOO_MANY_CONNECTIONS)
            transport.abort()
            return
        self.server_state.refused.add(self)
        message = "There are too many connections to this server; try again later."
        self._fail(ApiError(ErrorCode.TOO_MANY_CONNECTIONS, message))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.refused.discard(self)
        self.due_s = math.inf
        answering = self._answering
        if answering is not None and not answering.response_complete:
            # uvicorn tells only the last of several requests.
            answering.disconnected = True
            answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._failure is not None or self._lingering:
            self._drop(len(data))
            return
        self._n_between += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(not_parsed(error, data))
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        else:
            if self._n_between > self._limits.max_header_bytes:
                self._fail(requests.too_large(self._limits.max_header_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._message_open = True
        if self._is_free:
            self._expect_within(self._limits.receive_timeout_s)

    def on_headers_complete(self) -> None:
        self._n_between = 0
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > self._limits.max_header_bytes:
            raise requests.too_large(self._limits.max_header_bytes)
        if len(self.pipeline) >= MOST_PIPELINED:
            raise invalid(f"At most {MOST_PIPELINED} requests may be sent ahead of their answers.")
        version, method = self.parser.get_http_version(), self.parser.get_method()
        requests.check_headers(version, self.headers)
        if method == b"CONNECT":
            raise invalid("This server is no proxy.")
        if self.parser.should_upgrade():
            if self._get_upgrade() == b"websocket":
                raise invalid("There are no WebSockets here; streams are server-sent events.")
            return  # `_parse_without_upgrade` follows
        if not self.url.startswith(b"/"):  # but with http:// and a host, as proxies are asked
            self.url = requests.path_of(self.url)
        was_paused = self.flow.read_paused
        super().on_headers_complete()
        if self.pipeline and not was_paused:
            self.flow.resume_reading()  # or nobody would notice that the client leaves

    def on_body(self, body: bytes) -> None:
        self._n_between = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._n_between = 0
        if not self.parser.should_upgrade():
            self._message_open = False
            self.due_s = math.inf
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent: go on with the next request, or end the connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._is_last:
            self._end()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._failure is not None:
            self._refuse(self._failure)
            return
        elif not self._message_open:
            self._expect_within(self._limits.keep_alive_timeout_s)
        if self._message_open and not self.pipeline and self._failure is None:
            self._expect_within(self._limits.receive_timeout_s)

    def overdue(self) -> None:
        """What was expected until `due_s` has not come."""
        self.due_s = math.inf
        if self._lingering:
            self.transport.abort()
        elif self._message_open:
            self._fail(requests.too_late(self._limits.receive_timeout_s))
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, functools.partial(self._run, app, cycle))

    async def _run(
        self,
        app: ASGIApp,
        cycle: RequestResponseCycle,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run the application; who waits for the rest of a request that fails gets `ApiError`."""
        is_old = scope["http_version"] == "1.0"  # knows no chunks; ends with the connection

        async def receive_or_fail() -> Message:
            message = await receive()
            if self._failure is not None and cycle.more_body and message["type"] == "http.request":
                raise self._failure
            return message

        async def begin(message: Message) -> None:
            if cycle.more_body or not self._limits.keep_alive_timeout_s:
                cycle.keep_alive = False  # there is no telling what the client will still send
            if is_old:
                cycle.chunked_encoding = False
            await send(message)
            # uvicorn would close the connection; `_end` sees to it that the answer is read.
            self._is_last, cycle.keep_alive = not cycle.keep_alive, True

        def send_part(message: Message) -> Awaitable[None]:
            # No coroutine of our own around uvicorn's: this is called for each token.
            if not cycle.response_started:
                return begin(message)
            if is_old:  # uvicorn insists on a length: it gets that of each part
                cycle.expected_content_length = len(message.get("body", b""))
            return send(message)

        await app(scope, receive_or_fail, send_part)

    @property
    def _is_free(self) -> bool:
        return self._answering is None or self._answering.response_complete

    def _fail(self, error: ApiError) -> None:
        """Nothing more can be made of what arrives; the client learns why, in its turn."""
        self._failure = error
        self.due_s = math.inf
        self.flow.resume_reading()  # or nobody would notice that the client leaves
        if self._is_free:
            self._refuse(error)
        elif self.cycle.more_body:
            self.cycle.message_event.set()

    def _refuse(self, error: ApiError) -> None:
        """Answer to what never became a request."""
        request_id, response = last_response(error, self.server_state.default_headers)
        logger.info("refused: %s %s", error.code.value, request_id)
        self._limits.count_refused(error.code)
        self.transport.write(response)
        self._message_open = True  # whatever it is that the client is sending
        self._end()

    def _end(self) -> None:
        """Close the connection such that the client sees the answer.

        Closed while there is something to be read, it would be reset, and the reset may overtake
        the answer. So it is closed for writing, and what still comes is dropped for a while.
        """
        if not self._message_open or self.transport.is_closing():
            self.transport.close()
            return
        self._lingering = True
        has_eof = self.transport.can_write_eof()
        if has_eof:
            self.transport.write_eof()
        self.flow.resume_reading()
        self._expect_within(LINGER_S if has_eof else LINGER_TLS_S)

    def _drop(self, n_bytes: int) -> None:
        self._n_dropped += n_bytes
        if self._n_dropped > LINGER_BYTES:
            if self._lingering:
                self.flow.pause_reading()
                self._expect_within(LINGER_FULL_S)
            else:
                self.transport.abort()

    def _expect_within(self, timeout_s: float) -> None:
        """Something has to happen within so many seconds; 0 is for ever."""
        self.due_s = self.loop.time() + timeout_s if timeout_s else math.inf

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Ignore the wish for another protocol, as is allowed; Java's client has it by default.

        The parser would take the body for something in that protocol, and ``rest``, which follows
        the headers, with it.
        """
        request = requests.without_upgrade(self.parser, self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self._n_between = 0
        self.data_received(request + rest)
