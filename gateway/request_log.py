"""Middleware that gives every request an id and writes one log line about it."""

import logging
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("gateway.access")

CLIENT_LEFT = 499
"""Logged in place of a status when the client went away before the end of its answer."""


def request_id_of(scope: Scope) -> str:
    """The client's ``x-request-id`` if it can be repeated in a header and a log, else a new id."""
    given = Headers(scope=scope).get("x-request-id", "")
    if 1 <= len(given) <= 128 and all("!" <= character <= "~" for character in given):
        return given
    return f"req-{uuid.uuid4().hex}"


class RequestLog:
    """Puts ``x-request-id`` on every response and logs method, path, status, time and id."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; log when its response has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        began = time.perf_counter()
        status = CLIENT_LEFT
        complete = False

        async def noting_send(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            else:
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            logger.info(
                "%s %s %d %.1f ms %s",
                scope["method"],
                quote(scope["path"]),  # a decoded path may hold line breaks
                status if complete else CLIENT_LEFT,
                (time.perf_counter() - began) * 1000,
                request_id,
            )
