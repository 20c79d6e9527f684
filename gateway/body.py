"""Reads request bodies, which are JSON objects."""

from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request

from gateway.errors import ApiError, excerpt
from shared.errors import ErrorCode

_LARGE_BYTES = 64 << 10
# Bodies that will be refused as wrong take no place in the pool, but memory as well.
_LEAST_LARGE_BODIES = 8
_RETRY_AFTER_S = 1


class BodyReader:
    """Bounds the bodies that are read at the same time.

    FastAPI's own parsing knows no limit, wants a content type, and answers 422.
    """

    def __init__(self, max_bytes: int, most_large: int) -> None:
        """Begin with none.

        Args:
            max_bytes: the longest body.
            most_large: how many large ones the server has a use for at the same time.
        """
        self._max_bytes = max_bytes
        self._most_large = max(_LEAST_LARGE_BODIES, most_large)
        self._n_large = 0

    async def read_object(self, request: Request) -> dict[str, Any]:
        """The JSON object that the body of a request is.

        Raises:
            ApiError: it is none, is too long, says that it is something else than JSON, or is large
                while too many large ones are being read.
        """
        _check_media_type(request.headers.get("content-type", ""))
        body = await self._read(request)
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            message = f"The body is not JSON: {error}." if body else "The body is empty."
            raise ApiError(ErrorCode.INVALID_JSON, message) from error
        if not isinstance(content, dict):
            raise ApiError(ErrorCode.INVALID_JSON, "The body must be a JSON object.")
        return content

    async def _read(self, request: Request) -> bytes:
        limit = self._max_bytes
        too_large = ApiError(
            ErrorCode.BODY_TOO_LARGE, f"The body is longer than the {limit} bytes that are allowed."
        )
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        body, is_large = bytearray(), False
        try:
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise too_large
                    if len(body) > _LARGE_BYTES and not is_large:
                        self._take_place()
                        is_large = True
        finally:
            self._n_large -= is_large
        return bytes(body)

    def _take_place(self) -> None:
        """Memory for a large body while it arrives."""
        if self._n_large >= self._most_large:
            message = (
                f"{self._n_large} large requests are being read already, of at most"
                f" {self._most_large}; try again later"
            )
            raise ApiError(ErrorCode.QUEUE_FULL, message, retry_after=_RETRY_AFTER_S)
        self._n_large += 1


def _check_media_type(header: str) -> None:
    media_type = header.partition(";")[0].strip().lower()
    if media_type in ("", "application/json") or media_type.endswith("+json"):
        return
    message = (
        f"The body must be application/json, not {excerpt(media_type)}. "
        "With curl: -H 'Content-Type: application/json'."
    )
    raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
