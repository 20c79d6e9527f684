"""The application as a whole, without sockets and without workers."""

import asyncio
from typing import Any

import orjson
import pytest

from gateway.app import create_app
from gateway.pool.base import PoolRefused
from shared.errors import ErrorCode
from tests.unit.gateway.fakes import (
    CONFIG,
    Script,
    ScriptedPool,
    deltas,
    error,
    failed,
    loading,
    post,
    prefilled,
    request,
)

USER = {"role": "user", "content": "Hi"}
POST_PATHS = ["/v1/completions", "/v1/chat/completions", "/v2/chat/completions"]


def body_for(path: str, **more: Any) -> dict[str, Any]:
    return ({"prompt": "x"} if path == "/v1/completions" else {"messages": [USER]}) | more


def test_a_generation_that_fails_before_its_first_text_is_a_real_error() -> None:
    scripts: list[Script] = [lambda r: [failed(r)], lambda r: [prefilled(r), failed(r)]]
    for script in scripts:
        pool = ScriptedPool(script)
        for path in POST_PATHS:
            for stream in (True, False):
                response = post(pool, path, body_for(path, stream=stream))
                assert error(response) == (500, "worker_crashed", None)
                assert response.headers["x-should-retry"] == "false"


def test_a_generation_that_fails_later_ends_the_stream_with_an_error() -> None:
    pool = ScriptedPool(lambda r: [prefilled(r), *deltas(r, "a"), failed(r)])
    response = post(pool, "/v1/chat/completions", {"messages": [USER]})
    assert response.status_code == 200
    *_, last, rest = response.content.split(b"\n\n")
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "worker_crashed"
    assert rest == b""
    whole = post(pool, "/v1/chat/completions", {"messages": [USER], "stream": False})
    assert error(whole) == (500, "worker_crashed", None)


def test_a_refusal_says_when_to_come_back() -> None:
    pool = ScriptedPool(lambda r: [PoolRefused(ErrorCode.QUEUE_FULL, "Full.", 3)])
    for stream in (True, False):
        response = post(pool, "/v1/completions", {"prompt": "x", "stream": stream})
        assert error(response) == (429, "queue_full", None)
        assert response.headers["retry-after"] == "3"


def test_while_the_model_loads_health_answers_and_generations_are_refused() -> None:
    pool = ScriptedPool(status=loading(reason=None))
    for path in (*POST_PATHS, "/v1/embeddings", "/tokenize", "/detokenize", "/apply-template"):
        body = {"prompt": "x", "messages": [USER], "input": "x", "tokens": [1]}
        if path == "/tokenize":
            del body["messages"]
        response = post(pool, path, body)
        assert error(response) == (503, "model_loading", None)
        assert response.headers["retry-after"]
    assert request(pool, "GET", "/health").json() == {"status": "ok"}
    ready = request(pool, "GET", "/ready")
    assert (ready.status_code, ready.json()["state"]) == (503, "starting")
    assert ready.headers["retry-after"]
    (entry,) = request(pool, "GET", "/v1/models").json()["data"]
    assert entry["max_model_len"] is entry["chat_template"] is None
    assert (pool.requests, pool.questions) == ([], [])


def test_a_mistake_of_the_server_is_a_500_that_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(request: object) -> Any:
        raise KeyError("secret")

    response = post(ScriptedPool(broken), "/v1/completions", {"prompt": "x"})
    assert error(response) == (500, "internal_error", None)
    assert "secret" not in response.text
    assert "secret" in caplog.text
    assert response.headers["x-request-id"]


def test_the_openapi_document_shows_the_bodies() -> None:
    document = request(ScriptedPool(), "GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"CompletionRequest", "ChatRequest", "EmbeddingRequest"} <= set(schemas)
    for path in POST_PATHS:
        operation = document["paths"][path]["post"]
        assert "422" not in operation["responses"]
        assert operation["requestBody"]["required"]
    text = orjson.dumps(document).decode()
    used = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= set(schemas)
    assert request(ScriptedPool(), "GET", "/docs").status_code == 200


def test_the_pool_lives_as_long_as_the_application(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(ScriptedPool):
        started = asyncio.Event()

        async def start(self) -> None:
            self.started.set()
            await asyncio.get_running_loop().create_future()

    class Broken(ScriptedPool):
        async def start(self) -> None:
            raise OSError("no fork")

    async def live(pool: ScriptedPool) -> None:
        app = create_app(CONFIG, pool)
        async with app.router.lifespan_context(app):
            assert not pool.closed
            await asyncio.sleep(0)
        assert pool.closed

    for pool in (slow := Slow(), Broken()):
        asyncio.run(asyncio.wait_for(live(pool), 5))
    assert slow.started.is_set()
    assert "no fork" in caplog.text
