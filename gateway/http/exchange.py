"""One request and its answer: uvicorn's, and what it lacks."""

from collections.abc import Coroutine
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.errors import ApiError


class Exchange(RequestResponseCycle):
    """What the application receives and sends.

    Attributes:
        failure: why the rest of the request will not come; whoever waits for it gets this raised.
        ends_connection: that nothing follows the answer, once that has begun.
    """

    failure: ApiError | None = None
    ends_connection = False

    def fail(self, failure: ApiError) -> None:
        """The rest of the request will not come."""
        self.failure = failure
        self.keep_alive = False
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """The next part of the request, or the disconnect.

        Raises:
            ApiError: the rest of the request will not come.
        """
        message = await super().receive()
        if self.failure is not None and message["type"] == "http.request":
            raise self.failure
        return message

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """Send a part of the answer; waits while the client does not read."""
        # No coroutine of our own around uvicorn's: this is called for each token.
        if not self.response_started:
            return self._begin(message)
        if self.chunked_encoding is False and self.scope["http_version"] == "1.0":
            # Knows no chunks, so the end of the connection is the end of the answer. uvicorn
            # insists on a length: it gets that of each part.
            self.expected_content_length = len(message.get("body", b""))  # type: ignore[arg-type]
        return super().send(message)

    async def _begin(self, message: ASGISendEvent) -> None:
        if self.more_body:
            self.keep_alive = False  # there is no telling what the client will still send
        if self.scope["http_version"] == "1.0":
            self.chunked_encoding = False
        await super().send(message)
        # The connection is closed by `HttpProtocol`, which sees to it that the answer is read.
        self.ends_connection, self.keep_alive = not self.keep_alive, True
