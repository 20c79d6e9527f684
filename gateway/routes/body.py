"""Reads request bodies, which are JSON objects."""

from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, aclosing
from typing import Any, TypeAlias, TypeVar

import orjson
from fastapi import Request

from gateway.errors import ApiError, excerpt
from gateway.openai.admission import check_open
from gateway.pool.base import PoolLoad
from gateway.serving import Serving, ServingConfig
from shared.errors import ErrorCode

Planned = TypeVar("Planned")
Planner: TypeAlias = Callable[[bytes, ServingConfig, PoolLoad], Planned]
"""Lays out what a body asks to be generated, by a pool in the state that it is in."""

_LARGE_BYTES = 64 << 10


async def read_body(request: Request, serving: Serving) -> bytes:
    """The body, which has at most as many bytes as the settings allow.

    FastAPI's own parsing knows no limit, wants a content type, and answers 422.

    Raises:
        ApiError: it is too long, says that it is something else than JSON, or is large while too
            many large ones are being read.
    """
    _check_media_type(request.headers.get("content-type", ""))
    return await _read(request, serving.config.max_body_bytes, serving.offload.arriving())


async def read_plan(request: Request, serving: Serving, planner: Planner[Planned]) -> Planned:
    """What the body asks to be generated; a large one is looked at off the event loop.

    Raises:
        ApiError: `read_body` or ``planner`` refuse it.
        PoolRefused: the pool takes nothing now, whatever it is.
    """
    body = await read_body(request, serving)
    load = serving.pool.load()
    check_open(load)
    return await serving.offload.run(
        request.receive, len(body), lambda: planner(body, serving.config, load)
    )


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


async def _read(request: Request, limit: int, place: AbstractContextManager[None]) -> bytes:
    too_large = ApiError(
        ErrorCode.BODY_TOO_LARGE, f"The body is longer than the {limit} bytes that are allowed."
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body, has_place = bytearray(), False
    async with AsyncExitStack() as stack:
        chunks = await stack.enter_async_context(aclosing(request.stream()))
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise too_large
            if len(body) > _LARGE_BYTES and not has_place:
                stack.enter_context(place)
                has_place = True
    return bytes(body)
