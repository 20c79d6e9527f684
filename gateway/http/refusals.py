"""What a client is told whose bytes never became a request."""

import uuid
from collections.abc import Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import ApiError, as_api_error
from gateway.http.limits import MOST_PIPELINED, MOST_PIPELINED_BYTES, HttpLimits
from shared.errors import ErrorCode


def not_parsed(error: httptools.HttpParserError, data: bytes) -> ApiError:
    """Why ``data`` could not be parsed; ``error`` says that, or holds what a callback raised."""
    cause = error.__context__
    match cause:
        case ApiError():
            return cause
        case None if data.startswith(b"PRI * HTTP/2"):
            problem = "HTTP/2 is not spoken here; use HTTP/1.1."
        case None if data.startswith(b"\x16\x03"):
            problem = "TLS is not spoken on this port; use http://."
        case None:
            problem = f"This is no HTTP/1.1 request: {error}."
        case httptools.HttpParserError() | UnicodeError():
            problem = "The URL of the request is not valid."
        case Exception():
            return as_api_error(cause)
        case _:
            problem = "This is no HTTP/1.1 request."
    return invalid(problem)


def invalid(problem: str) -> ApiError:
    """What was sent is no request, or none that is taken."""
    return ApiError(ErrorCode.INVALID_HTTP, problem)


def too_many_requests() -> ApiError:
    """Too many requests wait on one connection."""
    return invalid(f"At most {MOST_PIPELINED} requests may be sent ahead of their answers.")


def too_early() -> ApiError:
    """The body of a request that waits is too long to be kept."""
    return invalid(
        f"At most {MOST_PIPELINED_BYTES} bytes of a body may be sent ahead of the answer to the"
        " request before."
    )


def too_large(limits: HttpLimits) -> ApiError:
    """There is no end to the headers."""
    message = (
        f"The request line and headers are longer than the {limits.max_header_bytes} bytes that"
        " are allowed."
    )
    return ApiError(ErrorCode.HEADERS_TOO_LARGE, message)


def too_late(limits: HttpLimits) -> ApiError:
    """The request did not arrive in time."""
    message = f"The request had not arrived within {limits.receive_timeout_s:g} seconds."
    return ApiError(ErrorCode.RECEIVE_TIMEOUT, message)


def too_many_connections() -> ApiError:
    """There is no room for another client."""
    message = "There are too many connections to this server; try again later."
    return ApiError(ErrorCode.TOO_MANY_CONNECTIONS, message)


def last_words(
    error: ApiError, default_headers: Iterable[tuple[bytes, bytes]]
) -> tuple[str, bytes]:
    """The id and the bytes of a response after which the connection ends."""
    request_id = f"req-{uuid.uuid4().hex}"
    response = error.response()
    close = (b"connection", b"close")  # a default header, too, while the server drains
    headers = [
        *(header for header in default_headers if header != close),
        *response.raw_headers,
        (b"x-request-id", request_id.encode()),
        close,
    ]
    lines = [b"%b: %b\r\n" % header for header in headers]
    parts = [STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)]
    return request_id, b"".join(parts)
