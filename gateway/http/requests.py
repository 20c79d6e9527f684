"""Which bytes are a request that is taken, and what a client is told whose bytes are none."""

import re
import uuid
from collections.abc import Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import ApiError, as_api_error
from shared.errors import ErrorCode

CLOSE = (b"connection", b"close")

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?", re.ASCII)
_UPGRADE_HEADERS = (b"connection", b"upgrade", b"http2-settings")

Headers = Iterable[tuple[bytes, bytes]]


def check_headers(version: str, headers: Headers) -> None:
    """Refuse what RFC 9112 forbids, since a proxy may understand it in another way.

    Raises:
        ApiError: ``invalid_http``.
    """
    hosts = [value for name, value in headers if name == b"host"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if version not in ("1.0", "1.1"):
        raise invalid(f"HTTP/{version} is not spoken here; use HTTP/1.1.")
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise invalid("A request must have one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise invalid("The Host header must be a name or an address, and perhaps a port.")
    if codings not in ([], [b"chunked"]) or (codings and version == "1.0"):
        raise invalid("Transfer-Encoding may only be 'chunked', and that in HTTP/1.1 only.")


def not_parsed(error: httptools.HttpParserError, data: bytes) -> ApiError:
    """Why ``data`` could not be parsed; ``error`` says that, or holds what a callback raised."""
    cause = error.__context__
    match cause:
        case ApiError():
            return cause
        case None if data.startswith(b"PRI * HTTP/2"):
            return invalid("HTTP/2 is not spoken here; use HTTP/1.1.")
        case None if data.startswith(b"\x16\x03"):
            return invalid("TLS is not spoken on this port; use http://.")
        case httptools.HttpParserError() | UnicodeError():
            return invalid("The URL of the request is not valid.")
        case Exception():
            return as_api_error(cause)
    return invalid(f"This is no HTTP/1.1 request: {error}.")


def invalid(problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_HTTP, problem)


def path_of(url: bytes) -> bytes:
    """Path and query of a URL with scheme and host, as proxies are asked for it."""
    parts = httptools.parse_url(url)
    return (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")


def without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """Request line and headers of a request, but for the wish for another protocol."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in _UPGRADE_HEADERS]
    if not parser.should_keep_alive():
        lines.append(b"connection: close\r\n")
    version = parser.get_http_version().encode()
    return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), url, version, b"".join(lines))


def last_response(error: ApiError, default_headers: Headers) -> tuple[str, bytes]:
    """The id and the bytes of a response after which the connection ends."""
    request_id = f"req-{uuid.uuid4().hex}"
    response = error.response()
    headers = [header for header in default_headers if header != CLOSE]
    headers += [*response.raw_headers, (b"x-request-id", request_id.encode()), CLOSE]
    lines = [b"%b: %b\r\n" % header for header in headers]
    parts = [STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)]
    return request_id, b"".join(parts)


def too_large(most_bytes: int) -> ApiError:
    """There is no end to the headers."""
    message = (
        f"The request line and headers are longer than the {most_bytes} bytes that are allowed."
    )
    return ApiError(ErrorCode.HEADERS_TOO_LARGE, message)


def too_late(timeout_s: float) -> ApiError:
    message = f"The request had not arrived within {timeout_s:g} seconds."
    return ApiError(ErrorCode.RECEIVE_TIMEOUT, message)
