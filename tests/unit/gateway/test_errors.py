"""The table of errors and what becomes of exceptions."""

import asyncio
import json
from typing import Any

import pytest

from gateway.errors import (
    DEFAULT_RETRY_AFTER,
    ERROR_SHAPE,
    ApiError,
    as_api_error,
    error_body,
    failure,
)
from gateway.pool.base import PoolRefused
from shared.errors import ErrorCode
from shared.messages import Failed


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_status_that_openai_clients_understand(code: ErrorCode) -> None:
    error = ApiError(code, "Why.", "where")
    assert error.status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503, 504)
    response = error.response()
    assert response.status_code == error.status
    assert ("retry-after" in response.headers) == (error.status in (429, 503))
    assert (response.headers.get("x-should-retry") == "false") == (error.status in (500, 504))


def test_retry_after_is_what_the_pool_says() -> None:
    refused = PoolRefused(ErrorCode.QUEUE_FULL, "Full.", 7)
    assert as_api_error(refused).response().headers["retry-after"] == "7"
    unavailable = ApiError(ErrorCode.SHUTTING_DOWN, "Bye.").response()
    assert unavailable.headers["retry-after"] == str(DEFAULT_RETRY_AFTER)


def test_why_the_model_is_not_there_is_not_for_clients() -> None:
    reason = "/home/somebody/model.bin: it is cut short"
    code = ErrorCode.MODEL_UNAVAILABLE
    for error in (
        as_api_error(PoolRefused(code, reason, 9)),
        failure(Failed("r", code, reason), {}),
    ):
        assert (error.status, error.code) == (503, code)
        assert "somebody" not in error.message and "log" in error.message


@pytest.mark.parametrize("shape", [None, lambda error: {"error": error.message}])
def test_whoever_sends_it_an_error_has_the_shape_of_the_path(shape: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    error = ApiError(ErrorCode.INVALID_API_KEY, "No.", headers={"www-authenticate": "Bearer"})
    scope = {"type": "http"} if shape is None else {"type": "http", ERROR_SHAPE: shape}
    asyncio.run(error.response()(scope, None, send))  # type: ignore[arg-type]
    head, body = sent
    headers = dict(head["headers"])
    assert (head["status"], headers[b"www-authenticate"]) == (401, b"Bearer")
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    expected = error_body(error) if shape is None else {"error": "No."}
    assert json.loads(body["body"]) == expected
