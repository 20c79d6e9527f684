"""Every error a client can get: code to status and type, one body, one table of handlers."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.observe.record import note_error
from gateway.pool.base import PoolRefused
from shared.errors import ErrorCode
from shared.messages import Failed

logger = logging.getLogger(__name__)

DEFAULT_RETRY_AFTER = 5
"""Seconds in ``Retry-After`` when whoever refused did not say better."""

STATUS: dict[ErrorCode, int] = {
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.INVALID_PROMPT: 400,
    ErrorCode.INVALID_JSON: 400,
    ErrorCode.INVALID_VALUE: 400,
    ErrorCode.MISSING_PARAMETER: 400,
    ErrorCode.UNSUPPORTED_PARAMETER: 400,
    ErrorCode.TEMPLATE_TOO_EXPENSIVE: 400,
    ErrorCode.GRAMMAR_TOO_EXPENSIVE: 400,
    ErrorCode.INVALID_HTTP: 400,
    ErrorCode.INVALID_API_KEY: 401,
    ErrorCode.HOST_NOT_ALLOWED: 403,
    ErrorCode.ORIGIN_NOT_ALLOWED: 403,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.UNKNOWN_URL: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.RECEIVE_TIMEOUT: 408,
    ErrorCode.RELOAD_RUNNING: 409,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.RATE_LIMIT_EXCEEDED: 429,
    ErrorCode.HEADERS_TOO_LARGE: 431,
    ErrorCode.ENGINE_ERROR: 500,
    ErrorCode.WORKER_CRASHED: 500,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.RELOAD_FAILED: 500,
    ErrorCode.MODEL_LOADING: 503,
    ErrorCode.MODEL_UNAVAILABLE: 503,
    ErrorCode.SHUTTING_DOWN: 503,
    ErrorCode.QUEUE_TIMEOUT: 503,
    ErrorCode.INSUFFICIENT_MEMORY: 503,
    ErrorCode.TOO_MANY_CONNECTIONS: 503,
    ErrorCode.REQUEST_TIMEOUT: 504,
}
"""HTTP status of each code."""

UNTOLD: dict[ErrorCode, str] = {
    ErrorCode.MODEL_UNAVAILABLE: "The model could not be loaded; the server's log says why.",
}
"""What clients are told of errors whose reasons are not for them, as they name files."""


LONGEST_EXCERPT = 100
"""The most characters of a client's own words that it gets back."""


class ApiError(Exception):
    """A request that ends with an error; the message is for the client."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        param: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message  #: what was wrong, and what would be right
        self.param = param  #: the field of the request at fault, e.g. ``messages[0].role``
        self.retry_after = retry_after  #: seconds until it is worth trying again (429 and 503)
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    @property
    def type(self) -> str:
        """What OpenAI calls such an error."""
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def response(self) -> Response:
        """The whole response, with the headers that tell a client whether to try again."""
        headers = dict(self.headers)
        if self.status in (429, 503):
            headers["retry-after"] = str(self.retry_after or DEFAULT_RETRY_AFTER)
        elif self.status in (500, 504):
            # OpenAI's client repeats every 5xx; the same prompt would only fail, or take as long.
            headers["x-should-retry"] = "false"
        return _ErrorResponse(self, headers)


def refused(param: str, sentence: str, code: ErrorCode = ErrorCode.INVALID_VALUE) -> ApiError:
    """The error that says what is wrong with a field; the sentence goes on after its name."""
    return ApiError(code, f"'{param}' {sentence}.", param)


def error_body(error: ApiError) -> dict[str, Any]:
    """The body that OpenAI's clients read."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code.value,
        }
    }


Shape: TypeAlias = Callable[[ApiError], Any]
"""Makes the body of an error response."""
ERROR_SHAPE = "gateway.error_shape"
"""Key in an ASGI scope: the `Shape` of the path's dialect; without it, `error_body`."""


class _ErrorResponse(Response):
    """In the shape of the path, whoever sends it; the record of the request names the error."""

    media_type = "application/json"

    def __init__(self, error: ApiError, headers: dict[str, str]) -> None:
        super().__init__(orjson.dumps(error_body(error)), error.status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_error(scope, self._error.code.value)
        shape: Shape | None = scope.get(ERROR_SHAPE)
        if shape is not None:
            self.body = orjson.dumps(shape(self._error))
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def excerpt(text: str) -> str:
    """What a client sent, for a message to it: the beginning, if it is long."""
    return text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}..."


def failure(event: Failed, params: Mapping[str, str]) -> ApiError:
    """The error that a failed generation means for its client.

    Args:
        event: why it failed; ``param`` is a field of `shared.messages.Generate`.
        params: what such fields are called in the request, where they have other names.
    """
    param = None if event.param is None else params.get(event.param, event.param)
    code, message = ErrorCode(event.code), event.message
    if event.param == "grammar":  # the worker does not know what it is called here
        message = f"'{param}' {message}"
    return ApiError(code, UNTOLD.get(code, message), param)


def as_api_error(error: Exception) -> ApiError:
    """Translate any exception; one that nobody foresaw is logged and tells the client nothing."""
    match error:
        case ApiError():
            return error
        case PoolRefused():
            message = UNTOLD.get(error.code, str(error))
            return ApiError(error.code, message, retry_after=error.retry_after)
        case HTTPException(status_code=404):
            message = "There is nothing at this URL. See /docs for what there is."
            return ApiError(ErrorCode.UNKNOWN_URL, message)
        case HTTPException(status_code=405):
            allowed = dict(error.headers or {})
            message = f"This URL does not take this method, only {allowed.get('Allow', 'others')}."
            return ApiError(ErrorCode.METHOD_NOT_ALLOWED, message, headers=allowed)
        case _:
            logger.error("unexpected error", exc_info=error)
            return ApiError(ErrorCode.INTERNAL_ERROR, "The server made a mistake; it is logged.")


async def _answer(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]
HANDLERS = dict.fromkeys((ApiError, PoolRefused, HTTPException), _answer)
"""The exception handlers of the application; `UnexpectedErrors` takes what is left."""


class UnexpectedErrors:
    """Middleware that answers 500 to an exception that no handler takes.

    A handler for `Exception` would sit outside of all other middleware, where its response gets no
    request id, and the exception would be raised and logged a second time by the HTTP server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            pass  # nobody is there to read an answer
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await as_api_error(error).response()(scope, receive, send)
