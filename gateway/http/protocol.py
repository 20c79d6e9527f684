"""uvicorn's HTTP protocol with bounds on the time and memory that a client may take.

uvicorn waits for ever for the rest of a request, keeps headers of any length, answers in plain
text to what it cannot parse, and resets the connection under the answer to a request that is still
being sent.
"""

import asyncio
import math
import urllib.parse

import httptools

from gateway.http.connection import Connection
from gateway.http.exchange import Exchange
from gateway.http.limits import MOST_PIPELINED, MOST_PIPELINED_BYTES, HttpLimits
from gateway.http.refusals import invalid, not_parsed, too_early, too_large, too_many_requests


class HttpProtocol(Connection):
    """What becomes of the bytes that a client sends.

    Requests that are sent ahead of the answers to those before them are kept, and wait.
    """

    _n_between = 0  # bytes since the last that belongs to a body

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        if self._dropping:
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
            if self._n_between > self.limits.max_header_bytes:
                self._fail(too_large(self.limits))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._message_open = True
        if self._is_free and self.cycle is not None:
            self._expect_within(self.limits.receive_timeout_s)

    def on_headers_complete(self) -> None:
        """The headers of a request are there: begin to answer it, or let it wait."""
        self._n_between = 0
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > self.limits.max_header_bytes:
            raise too_large(self.limits)
        if len(self.pipeline) >= MOST_PIPELINED:
            raise too_many_requests()
        if self.parser.should_upgrade():
            self._check_upgrade()
            return
        version = self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = (url.path or b"/").decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path or b"/"
        self.scope["query_string"] = url.query or b""
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        exchange = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive and self.limits.keep_alive_timeout_s > 0,
            on_response=self.on_response_complete,
        )
        is_free, self.cycle = self._is_free, exchange
        if is_free:
            self._answer(exchange)
        else:
            self.pipeline.appendleft((exchange, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of a body is there."""
        self._n_between = 0
        super().on_body(body)
        if self.cycle is not self._answering and len(self.cycle.body) > MOST_PIPELINED_BYTES:
            raise too_early()

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._n_between = 0
        if self.parser.should_upgrade():
            return  # `_parse_without_upgrade` follows
        self._message_open = False
        self._due_s = math.inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent: go on with the next request, or end the connection."""
        self.server_state.total_requests += 1
        exchange = self._answering
        if exchange is None or self.transport.is_closing():
            return
        if exchange.ends_connection:
            self._end()
            return
        self.flow.resume_reading()
        if self.pipeline:
            following, _ = self.pipeline.pop()
            assert isinstance(following, Exchange), "made by `on_headers_complete`"
            self._answer(following)
        elif self._failure is not None:
            self._refuse(self._failure)
        elif self._message_open:
            self._expect_within(self.limits.receive_timeout_s)
        else:
            self._expect_within(self.limits.keep_alive_timeout_s)

    def _check_upgrade(self) -> None:
        if self._get_upgrade() == b"websocket":
            raise invalid("There are no WebSockets here; streams are server-sent events.")
        if self.parser.get_method() == b"CONNECT":
            raise invalid("This server is no proxy.")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Ignore the wish for another protocol, as is allowed; Java's client has it by default.

        The parser would take the body for something in that protocol.

        Args:
            rest: what follows the headers.
        """
        left_out = (b"connection", b"upgrade", b"http2-settings")
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in left_out]
        if not self.parser.should_keep_alive():
            lines.append(b"connection: close\r\n")
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self._n_between = 0
        self.data_received(b"".join([first, *lines, b"\r\n", rest]))

    def _answer(self, exchange: Exchange) -> None:
        self._answering = exchange
        if exchange is self.cycle and self._message_open and self._due_s == math.inf:
            self._expect_within(self.limits.receive_timeout_s)
        self._start_asgi_task(exchange, self.app)


def protocol_with(limits: HttpLimits) -> type[HttpProtocol]:
    """The protocol of one server; what uvicorn's ``http`` takes."""

    class LimitedHttpProtocol(HttpProtocol):
        pass

    LimitedHttpProtocol.limits = limits
    LimitedHttpProtocol.refused = set()
    return LimitedHttpProtocol
