"""Reads request bodies, which are JSON objects."""

from contextlib import aclosing
from typing import Any

import orjson
from fastapi import Request

from gateway.errors import ApiError, excerpt
from gateway.serving import Serving
from shared.errors import ErrorCode


async def read_body(request: Request, serving: Serving) -> bytes:
    """The body, which has at most as many bytes as the settings allow.

    FastAPI's own parsing knows no limit, wants a content type, and answers 422.

    Raises:
        ApiError: it is too long, or says that it is something else than JSON.
    """
    _check_media_type(request.headers.get("content-type", ""))
    return await _read(request, serving.config.max_body_bytes)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        ApiError: it is none.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The body is not JSON: {error}." if body else "The body is empty."
        raise ApiError(ErrorCode.INVALID_JSON, message) from error
    if not isinstance(content, dict):
        raise ApiError(ErrorCode.INVALID_JSON, "The body must be a JSON object.")
    return content


def _check_media_type(header: str) -> None:
    media_type = header.partition(";")[0].strip().lower()
    if media_type in ("", "application/json") or media_type.endswith("+json"):
        return
    message = (
        f"The body must be application/json, not {excerpt(media_type)}. "
        "With curl: -H 'Content-Type: application/json'."
    )
    raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)


async def _read(request: Request, limit: int) -> bytes:
    too_large = ApiError(
        ErrorCode.BODY_TOO_LARGE, f"The body is longer than the {limit} bytes that are allowed."
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise too_large
    return bytes(body)
