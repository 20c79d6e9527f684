"""Sends a stream of events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Scope, Send

from gateway.answer.run import Tally
from gateway.dialects import Writer
from gateway.errors import as_api_error
from gateway.observe.record import note_error

DIRECT_SEND = "gateway.direct_send"
"""Key in an ASGI scope: the server's own ``send``, without what middleware wraps around it.

For what lies between the beginning and the end of a response, which no middleware is about: half a
dozen wrappers around each token cost more than the token.
"""


async def send_events(
    scope: Scope, send: Send, chunks: AsyncGenerator[bytes, None], writer: Writer, tally: Tally
) -> None:
    """Answer a request with events; each chunk is one or several, or nothing.

    Nothing is sent before the first is there. Until then an exception is the caller's, and becomes
    an ordinary error response; after that it is the last event of the stream. However the response
    ends, the generator is closed with it.
    """
    direct_send: Send = scope.get(DIRECT_SEND, send)
    headers = [
        (b"content-type", writer.media_type.encode("ascii")),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx would hold events back
    ]
    started = False
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if not chunk:
                    continue
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                # Waits while the client does not read.
                await direct_send({"type": "http.response.body", "body": chunk, "more_body": True})
        last = writer.end(tally.usage)
    except Exception as error:
        if not started:
            raise
        last_error = as_api_error(error)
        note_error(scope, last_error.code.value)
        last = writer.failed(last_error)
    await send({"type": "http.response.body", "body": last, "more_body": False})
