"""Middleware that bounds what each API key uses."""

import math
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth.rate import Rates, Usage
from gateway.errors import ApiError
from gateway.observe.record import record_of
from shared.errors import ErrorCode

COUNTED_PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v2/chat/completions",
    "/v1/embeddings",
)
"""What evaluates prompts; all else is free."""


class KeyLimits:
    """Refuses what is beyond the limits of a key, and says on every answer how much is left."""

    def __init__(
        self, app: ASGIApp, rates: Rates, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Wrap ``app``; ``clock`` gives seconds."""
        self._app = app
        self._rates = rates
        self._clock = clock
        self._usages: dict[str, Usage] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, if the key of the request has not used up what it may.

        Raises:
            ApiError: ``rate_limit_exceeded``.
        """
        name = record_of(scope).key_name if scope["type"] == "http" else None
        if name is None or scope["method"] != "POST" or scope["path"] not in COUNTED_PATHS:
            await self._app(scope, receive, send)
            return
        usage = self._usages.get(name)
        if usage is None:
            # There will be as many as the operator names keys.
            usage = self._usages[name] = Usage(self._rates, self._clock())
        self._begin(usage)
        try:
            await self._run(usage, scope, receive, send)
        finally:
            usage.end()

    def _begin(self, usage: Usage) -> None:
        now_s = self._clock()
        over = usage.begin(now_s)
        if over is not None:
            raise ApiError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                f"The limit is {over.message}.",
                retry_after=None if over.wait_s is None else max(1, math.ceil(over.wait_s)),
                headers=usage.headers(now_s),
            )

    async def _run(self, usage: Usage, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        charged = 0

        def charge() -> None:
            nonlocal charged
            used = record.prompt_tokens + record.completion_tokens
            usage.charge(used - charged, self._clock())
            charged = used

        async def telling_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                charge()  # of a whole answer all is known by now, of a stream the prompt
                MutableHeaders(scope=message).update(usage.headers(self._clock()))
            await send(message)

        try:
            await self._app(scope, receive, telling_send)
        finally:
            charge()
