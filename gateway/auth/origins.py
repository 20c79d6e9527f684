"""Which web pages may use the server, and by which names of it.

A browser sends some requests to any server, for any page, and only asks afterwards whether the page
may read the answer (CORS). Here that would already have cost a generation: requests of pages that
are not allowed are refused. Programs send no ``Origin``; nothing of this is about them.

A page whose name is made to resolve to this machine (DNS rebinding) may send requests here that its
browser takes for requests to the page's own server. They still carry that name in their ``Host``.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError
from shared.errors import ErrorCode

EXPOSED = (
    "openai-processing-ms", "retry-after", "x-request-id", "x-should-retry",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
"""The response headers that a page may read."""

_LOCAL = r"https?://(([^/:@]+\.)?localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"
_ANY_PART = "[^/:]{0,255}"  # bounded, as several of them take time that grows with each power
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class OriginCheck(CORSMiddleware):
    """Refuses foreign pages, and tells browsers that other pages may read the answers.

    Credentials are never allowed, so that ``*`` gives nothing away that a page could not fetch by a
    server of its own.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """Allow ``origins`` besides those of this machine.

        ``*`` stands for any part of a name, and alone for all pages.
        """
        names = [re.escape(origin).replace(r"\*", _ANY_PART) for origin in origins]
        super().__init__(
            app,
            allow_origins=["*"] if "*" in origins else [],
            allow_origin_regex=f"(?i:{'|'.join([_LOCAL, *names])})",
            allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
            allow_headers=["*"],  # clients send many of their own; none of ours does harm
            allow_private_network=True,
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None:
            await self.app(scope, receive, send)
        elif self.is_allowed_origin(origin):
            await super().__call__(scope, receive, send)
        elif _is_own(origin, headers):
            await self.app(scope, receive, send)
        else:
            error = ApiError(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "Web pages of this origin may not use the server. If they should, start it with"
                " the origin in CORS_ORIGINS.",
            )
            await error.response()(scope, receive, send)


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether the page was served by this server."""
    # Only the browser can set this header. It knows better where a reverse proxy changes `Host`.
    if headers.get("sec-fetch-site") == "same-origin":
        return True
    # A reverse proxy may have ended the TLS, so that our own scheme says nothing.
    scheme, _, name = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")
    host = headers.get("host", "").lower()
    return bool(port and name) and name.removesuffix(port) == host.removesuffix(port)


def host_name(authority: str) -> str:
    """The name or address in ``name:port``, in lower case, without brackets and a final dot."""
    name = authority.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is one of this machine only, whatever a DNS server says."""
    if (address := _address(name)) is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


class HostCheck:
    """Middleware that lets requests through whose ``Host`` is this machine's, or one of ``names``.

    ``*.example.org`` names all below one. An address is always good: a page cannot be served from
    one address and have its requests go to another.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = {name for name in names if not name.startswith("*.")}
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for header, value in scope["headers"]:
                if header == b"host" and not self._is_ours(host_name(value.decode("latin-1"))):
                    raise ApiError(
                        ErrorCode.HOST_NOT_ALLOWED,
                        "The Host of this request is not a name of this server. If it should be,"
                        " start the server with it in ALLOWED_HOSTS.",
                    )
        await self._app(scope, receive, send)

    def _is_ours(self, name: str) -> bool:
        is_named = name in self._names or name.endswith(self._endings)
        return not name or is_named or is_loopback(name) or _address(name) is not None
