"""Middleware for requests from web pages: which may come, and what their browser has to be told.

A browser sends some requests to any server, for any page, and only asks afterwards whether the page
may read the answer (CORS). Here that would already have cost a generation, so that requests of
pages which are not allowed are refused. Programs send no ``Origin``; nothing of this is about them.
"""

import re
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth.hosts import is_local
from gateway.errors import ApiError
from shared.errors import ErrorCode

EXPOSED = (
    "openai-processing-ms", "retry-after", "x-request-id", "x-should-retry",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
"""The response headers that a page may read."""

PREFLIGHT_AGE_S = 600
"""How long a browser need not ask again."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginCheck:
    """Answers preflights, refuses pages that are not allowed, and marks what the others may read.

    Allowed are pages of this machine (whatever their port), those that this server itself serves,
    and those that the settings name. Credentials are never allowed, so that ``*`` gives nothing
    away that a page could not fetch by a server of its own.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """Wrap ``app``; ``allowed`` are origins, in which ``*`` stands for any part of a name."""
        self._app = app
        self._allows_all = "*" in allowed
        self._named = _pattern(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application unless the request is a preflight or must not be served."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None:
            await self._app(scope, receive, send)
            return
        if not (self._allows(origin) or _is_own(origin, headers)):
            error = ApiError(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "Web pages of this origin may not use the server. If they should, start it with"
                " the origin in CORS_ORIGINS.",
            )
            await error.response()(scope, receive, send)
            return
        granted = self._granted(origin)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(None, 204, granted | _preflight(headers))(scope, receive, send)
            return

        async def marking_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                marked.update(granted)
                marked["access-control-expose-headers"] = ", ".join(EXPOSED)
            await send(message)

        await self._app(scope, receive, marking_send)

    def _allows(self, origin: str) -> bool:
        return self._allows_all or _is_local(origin) or bool(self._named.fullmatch(origin.lower()))

    def _granted(self, origin: str) -> dict[str, str]:
        if self._allows_all:
            return {"access-control-allow-origin": "*"}
        return {"access-control-allow-origin": origin, "vary": "Origin"}


def _preflight(headers: Headers) -> dict[str, str]:
    granted = {
        "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
        "access-control-max-age": str(PREFLIGHT_AGE_S),
    }
    if wanted := headers.get("access-control-request-headers"):
        # Clients send many of their own (x-stainless-...); none of ours does harm.
        granted["access-control-allow-headers"] = wanted
    if headers.get("access-control-request-private-network") == "true":
        granted["access-control-allow-private-network"] = "true"
    return granted


def _pattern(origins: Iterable[str]) -> re.Pattern[str]:
    names = (re.escape(origin).replace(r"\*", "[^/:]*") for origin in origins)
    return re.compile("|".join(names) or "(?!)")


def _parts(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; None if ``origin`` is not one of a web page, but e.g. ``null``."""
    try:
        parts = urlsplit(origin.lower())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port


def _is_local(origin: str) -> bool:
    parts = _parts(origin)
    return parts is not None and is_local(parts[1])


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether the page was served by this server."""
    # Only the browser can set this header. It knows better where a reverse proxy changes `Host`.
    if headers.get("sec-fetch-site") == "same-origin":
        return True
    page = _parts(origin)
    if page is None:
        return False
    scheme, name, port = page
    # A reverse proxy may have ended the TLS, so that our own scheme says nothing.
    server = _parts(f"{scheme}://{headers.get('host', '')}")
    default = _DEFAULT_PORTS[scheme]
    return server is not None and (name, port or default) == (server[1], server[2] or default)
