"""How long a connection lives, and how it ends."""

import asyncio
import logging
import math
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import ApiError
from gateway.http.exchange import Exchange
from gateway.http.limits import (
    LINGER_BYTES,
    LINGER_FULL_S,
    LINGER_S,
    LINGER_TLS_S,
    MOST_REFUSED,
    HttpLimits,
)
from gateway.http.refusals import last_words, too_late, too_many_connections
from shared.errors import ErrorCode

logger = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which ends when its time is over, and so that its client notices.

    It has one timer, which is moved only when it fires too early: a request costs no timer of its
    own. A client that ends its side of the connection has left.

    Attributes:
        limits: of all connections.
        refused: the connections that are too many and are told so.
    """

    limits: ClassVar[HttpLimits]
    refused: ClassVar[set["Connection"]]

    _answering: Exchange | None = None
    _message_open = False  # a request has begun to arrive and has not ended
    _failure: ApiError | None = None  # for the client; nothing is parsed any more
    _dropping = False  # what arrives is not looked at
    _lingering = False  # and nothing is sent
    _n_dropped = 0
    _due_s = math.inf
    _timer: asyncio.TimerHandle | None = None
    _timer_s = math.inf

    @classmethod
    def has_room(cls, server_state: ServerState, n_expected: int) -> bool:
        """Whether one more connection may be accepted, for its TLS handshake.

        Args:
            server_state: holds the connections that are served.
            n_expected: how many others have not ended theirs.
        """
        n_open = len(server_state.connections) + len(cls.refused) + n_expected
        if n_open < cls.limits.max_connections + MOST_REFUSED:
            return True
        cls.limits.count_refused(ErrorCode.TOO_MANY_CONNECTIONS)
        return False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) <= self.limits.max_connections:
            self._expect_within(self.limits.receive_timeout_s)
            return
        self.connections.discard(self)
        if len(self.refused) >= MOST_REFUSED:
            self.limits.count_refused(ErrorCode.TOO_MANY_CONNECTIONS)
            transport.abort()
            return
        self.refused.add(self)
        self._fail(too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more: whoever works for it is told."""
        self.refused.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        answering = self._answering
        if answering is not None and not answering.response_complete:
            # uvicorn tells only the last of several requests.
            answering.disconnected = True
            answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Take no further request; what is being answered still is."""
        if self._lingering:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def _is_free(self) -> bool:
        return self._answering is None or self._answering.response_complete

    def _fail(self, error: ApiError) -> None:
        """Nothing more can be made of what arrives; the client learns why, in its turn."""
        self._dropping = True
        self._failure = error
        self.flow.resume_reading()  # or it would not be noticed that the client leaves
        exchange = self.cycle
        if isinstance(exchange, Exchange) and exchange.more_body:
            if exchange.response_complete:
                self._end()
            else:
                exchange.fail(error)
        elif self._is_free:
            self._refuse(error)

    def _refuse(self, error: ApiError) -> None:
        """Answer to what never became a request."""
        request_id, response = last_words(error, self.server_state.default_headers)
        logger.info("refused: %s %s", error.code.value, request_id)
        self.limits.count_refused(error.code)
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
        self._dropping = self._lingering = True
        has_eof = self.transport.can_write_eof()
        if has_eof:
            self.transport.write_eof()
        self.flow.resume_reading()
        self._expect_within(LINGER_S if has_eof else LINGER_TLS_S)

    def _drop(self, n_bytes: int) -> None:
        """Take no notice of what has arrived; not of any amount of it, though."""
        self._n_dropped += n_bytes
        if self._n_dropped > LINGER_BYTES:
            if self._lingering:
                self.flow.pause_reading()
                self._expect_within(LINGER_FULL_S)
            else:
                self.transport.abort()

    def _expect_within(self, timeout_s: float) -> None:
        """Something has to happen within so many seconds; 0 is for ever."""
        self._due_s = self.loop.time() + timeout_s if timeout_s else math.inf
        if self._due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer_s = self._due_s
        self._timer = self.loop.call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_s = None, math.inf
        if self._due_s == math.inf or self.transport.is_closing():
            return
        if self.loop.time() < self._due_s:
            self._set_timer()
        elif self._lingering:
            self.transport.abort()
        elif self._message_open:
            self._fail(too_late(self.limits))
        else:
            self.transport.close()
