"""Middleware that lets nobody in without an API key, where there are any."""

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.key_file import KeySource
from gateway.auth.keys import presented_keys
from gateway.errors import ApiError
from gateway.observe.record import record_of
from shared.errors import ErrorCode

OPEN_PATHS = ("/health", "/ready")
"""What anybody may ask; `is_stranger` tells how much they may be told."""

ADMIN_PATHS = "/admin/"
"""What begins so has a key of its own, which the route asks for."""

_STRANGER = "gateway.stranger"


class KeyGuard:
    """Asks every request for an API key, and notes in its record whose it is."""

    def __init__(self, app: ASGIApp, keys: KeySource) -> None:
        """Wrap ``app``."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for those who may use it.

        Raises:
            ApiError: ``invalid_api_key``.
        """
        if scope["type"] == "http":
            self._admit(scope)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        brought = presented_keys(scope)
        name = self._keys.current(time.monotonic()).name_of(brought)
        record_of(scope).key_name = name
        scope[_STRANGER] = name is None
        if name is None and not _is_open(scope):
            raise ApiError(
                ErrorCode.INVALID_API_KEY,
                "The API key is not one of this server's."
                if brought
                else "This server asks for an API key: send the header"
                " 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                headers={"www-authenticate": "Bearer"},
            )


def is_stranger(scope: Scope) -> bool:
    """Whether a request came without a key to a server that has some."""
    return bool(scope.get(_STRANGER, False))


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "OPTIONS" or path in OPEN_PATHS or path.startswith(ADMIN_PATHS)
