"""Server-sent events, and work that ends when its client goes away."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.errors import ApiError, as_api_error
from gateway.observe.record import note_error

Result = TypeVar("Result")

HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold events back
}
"""Response headers of every stream."""

DIRECT_SEND = "gateway.direct_send"
"""Key in an ASGI scope: the server's own ``send``, without what middleware wraps around it.

For what lies between the beginning and the end of a response, which no middleware is about: half a
dozen wrappers around each token cost more than the token.
"""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end, or cancel it when the client goes away.

    The request body must have been read: the next message is then the disconnect.

    Raises:
        ClientDisconnect: the client went away; ``work`` has ended, nothing more can be sent.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """A response made of events as they come, which owns the generator they come from.

    Nothing is sent before the first event is there. Until then an exception of the generator
    becomes an ordinary error response; after that it is the last event of the stream. However the
    response ends, the generator is closed with it.
    """

    def __init__(
        self,
        media_type: str,
        chunks: AsyncGenerator[bytes, None],
        end: Callable[[], bytes],
        failed: Callable[[ApiError], bytes],
    ) -> None:
        """Take what is to be sent.

        Args:
            media_type: of the events.
            chunks: each one or several finished events, or nothing.
            end: makes the last such chunk, when all others are there.
            failed: makes it where they did not all come.
        """
        super().__init__(chunks, headers={"content-type": media_type, **HEADERS})
        self._chunks = chunks
        self._end = end
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they or the client are gone."""
        await until_disconnect(receive, self._send_all(scope, send))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        direct_send: Send = scope.get(DIRECT_SEND, send)
        started = False
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    if not chunk:
                        continue
                    if not started:
                        await send(
                            {
                                "type": "http.response.start",
                                "status": self.status_code,
                                "headers": self.raw_headers,
                            }
                        )
                        started = True
                    # Waits while the client does not read.
                    await direct_send(
                        {"type": "http.response.body", "body": chunk, "more_body": True}
                    )
            last = self._end()
        except Exception as error:
            if not started:
                raise
            last_error = as_api_error(error)
            note_error(scope, last_error.code.value)
            last = self._failed(last_error)
        await send({"type": "http.response.body", "body": last, "more_body": False})
