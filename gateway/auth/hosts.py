"""Middleware that refuses requests for other hosts than this one, against DNS rebinding.

A web page whose name is made to resolve to this machine may send requests here that its browser
takes for requests to the page's own server. They still carry that name in their ``Host``.
"""

from collections.abc import Collection
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError
from shared.errors import ErrorCode


def host_name(authority: str) -> str:
    """The name or address in ``name:port``, in lower case, without brackets and a final dot."""
    name = authority.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def is_local(name: str) -> bool:
    """Whether a host's name or address is one of this machine only, whatever a DNS server says."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class HostCheck:
    """Lets requests through whose ``Host`` is this machine's, an address, or one of those named.

    An address is always good: a page cannot be served from one address and have its requests go to
    another. So is no ``Host`` at all, which browsers always send.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        """Wrap ``app``; ``allowed_hosts`` are names, ``*.example.org`` for all below one."""
        self._app = app
        self._names = {name for name in allowed_hosts if not name.startswith("*.")}
        self._endings = tuple(name[1:] for name in allowed_hosts if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, if the request is meant for it.

        Raises:
            ApiError: ``host_not_allowed``.
        """
        if scope["type"] == "http":
            for header, value in scope["headers"]:
                if header == b"host":
                    self._check(value.decode("latin-1"))
        await self._app(scope, receive, send)

    def _check(self, authority: str) -> None:
        name = host_name(authority)
        if not name or name in self._names or is_local(name) or name.endswith(self._endings):
            return
        try:
            ip_address(name)
        except ValueError:
            raise ApiError(
                ErrorCode.HOST_NOT_ALLOWED,
                "The Host of this request is not a name of this server. If it should be, start the"
                " server with it in ALLOWED_HOSTS.",
            ) from None
