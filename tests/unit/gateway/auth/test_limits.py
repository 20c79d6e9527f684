"""The limits of keys: pure, with a clock of our own; and around an application."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.keys import ApiKeys, KeyGuard
from gateway.auth.limits import FREE_PATHS, Bucket, KeyLimits, Rates, Usage, duration
from gateway.errors import ApiError, UnexpectedErrors
from gateway.observe.log import RequestLog
from gateway.observe.record import GenerationRecord, RequestRecord, record_of
from tests.unit.gateway.auth.asking import COMPLETION, Asker
from tests.unit.gateway.fakes import error

WHOLE, STREAMED = "/v1/completions", "/v2/chat/completions"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.0004, "1ms"), (0.9995, "1s"), (1.2, "2s"), (59.5, "1m0s"), (3725, "1h2m5s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(
    st.integers(1, 100_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1_000_000)), max_size=20),
)
def test_a_bucket_keeps_what_it_says(limit: int, steps: list[tuple[float, int]]) -> None:
    bucket, now_s = Bucket(limit, 0), 0.0
    for passed_s, units in steps:
        now_s += passed_s
        bucket.take(units, now_s)
        assert 0 <= bucket.remaining(now_s) <= limit
        assert (bucket.seconds_to(1, now_s) == 0) == (bucket.remaining(now_s) > 0)
        assert bucket.remaining(now_s + bucket.seconds_to(1, now_s)) > 0
        assert bucket.remaining(now_s + bucket.seconds_to(limit, now_s) + 1e-3) == limit


def refusal(usage: Usage, now_s: float) -> ApiError | None:
    """Begin a request; returns why it was refused."""
    try:
        usage.begin(now_s)
    except ApiError as refused:
        return refused
    return None


@given(st.integers(1, 100), st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_no_more_requests_than_allowed_in_any_time(limit: int, pauses: list[float]) -> None:
    usage, now_s, taken = Usage(Rates(requests=limit), 0), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        taken += refusal(usage, now_s) is None
        assert taken <= limit + limit * now_s / 60 + 1e-3


class Limited:
    """An application behind keys and limits; its clock stands still unless it is moved."""

    def __init__(self, rates: Rates) -> None:
        self.now_s = 0.0
        self.choices = 1  # generations that a request asks for, of one prompt
        self.prompt_tokens = 0  # of each generation
        self.completion_tokens = 0  # of each, after the answer has begun
        self.answer: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
        self.app = Starlette(
            middleware=[
                Middleware(RequestLog),
                Middleware(UnexpectedErrors),
                Middleware(KeyGuard, ApiKeys("a:key-of-a,b:key-of-b")),
                Middleware(KeyLimits, rates, lambda: self.now_s),
            ]
        )
        self.app.router.default = self._generate

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.choices = self.choices
        record.generations = [
            GenerationRecord(prompt_tokens=self.prompt_tokens) for _ in range(self.choices)
        ]
        response: ASGIApp = PlainTextResponse("ok")
        if scope["path"] == STREAMED:
            response = StreamingResponse(self._stream(record))
        else:
            await self._complete(record)
        await response(scope, receive, send)

    async def _stream(self, record: RequestRecord) -> AsyncGenerator[bytes, None]:
        yield b"begun"
        await self._complete(record)

    async def _complete(self, record: RequestRecord) -> None:
        await self.answer()
        for each in record.generations:
            each.completion_tokens = self.completion_tokens

    async def post(self, key: str = "key-of-a", path: str = WHOLE) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, headers={"x-api-key": key})


def run(check: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(check, 10))


def test_what_takes_post_and_is_free_evaluates_nothing() -> None:
    described = Asker([])("GET", "/openapi.json").json()["paths"]
    posts = {path for path, methods in described.items() if "post" in methods}
    counted = {path for path in posts if not path.startswith("/admin/")} - set(FREE_PATHS)
    assert set(FREE_PATHS) < posts
    assert counted >= {WHOLE, STREAMED, "/v1/chat/completions", "/v1/embeddings"}
    words = ("completions", "embeddings", "responses", "messages", "chat", "generate", "embed")
    assert {path for path in counted if not path.endswith(words)} == set()


def test_requests_beyond_the_limit_are_refused_until_there_is_room() -> None:
    async def check() -> None:
        limited = Limited(Rates(requests=2, tokens=1000))
        first = await limited.post()
        assert {name: v for name, v in first.headers.items() if name.startswith("x-rate")} == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "30s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "1000",
            "x-ratelimit-reset-tokens": "0s",
        }
        assert (await limited.post()).status_code == 200
        refused = await limited.post()
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "2 requests per minute for each key" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-request-id"]
        # Another key has limits of its own, and what is free has none.
        assert (await limited.post("key-of-b")).status_code == 200
        other = await limited.post(path=FREE_PATHS[0])
        assert other.status_code == 200 and "x-ratelimit-limit-requests" not in other.headers
        limited.now_s = 30
        # One that was refused has used nothing.
        assert (await limited.post()).status_code == 200

    run(check())


@pytest.mark.parametrize("path", [WHOLE, STREAMED])
def test_tokens_are_charged_when_they_are_known_and_may_overdraw_once(path: str) -> None:
    async def check() -> None:
        limited = Limited(Rates(tokens=60))
        limited.prompt_tokens, limited.completion_tokens = 10, 80
        answer = await limited.post(path=path)
        known = 50 if path == STREAMED else 0  # of a stream only the prompt
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(known)
        assert "x-ratelimit-limit-requests" not in answer.headers
        refused = await limited.post(path=path)
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert "60 tokens per minute" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "31"
        assert refused.headers["x-ratelimit-reset-tokens"] == "1m30s"
        limited.now_s = 31
        assert (await limited.post(path=path)).status_code == 200

    run(check())


@pytest.mark.parametrize("path", [WHOLE, STREAMED])
@pytest.mark.parametrize("end", ["answer", "error", "cancel"])
def test_requests_at_the_same_time_are_counted_until_they_end(path: str, end: str) -> None:
    async def check() -> None:
        limited = Limited(Rates(concurrent=1, tokens=1000))
        limited.prompt_tokens = 5
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def answer() -> None:
            begun.set()
            await may_end.wait()
            if end == "error":
                raise RuntimeError("a bug")

        limited.answer = answer
        first = asyncio.create_task(limited.post(path=path))
        await begun.wait()
        refused = await limited.post()
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert int(refused.headers["retry-after"]) > 0
        assert "1 requests at the same time" in refused.json()["error"]["message"]
        if end == "cancel":
            first.cancel()
        may_end.set()
        await asyncio.gather(first, return_exceptions=True)
        limited.answer = lambda: asyncio.sleep(0)
        again = await limited.post()
        assert again.status_code == 200
        # Whatever became of the first, its prompt was charged.
        assert again.headers["x-ratelimit-remaining-tokens"] == "990"

    run(check())


def test_a_prompt_that_choices_share_is_charged_once() -> None:
    records: list[RequestRecord] = []
    ask = Asker([], observers=[records.append])
    ask("POST", WHOLE, json={**COMPLETION, "prompt": ["a", "b"], "n": 3})
    (record,) = records
    assert (len(record.generations), record.choices) == (6, 3)

    async def check() -> None:
        limited = Limited(Rates(tokens=100))
        limited.choices, limited.prompt_tokens, limited.completion_tokens = 3, 10, 5
        answer = await limited.post()
        assert answer.headers["x-ratelimit-remaining-tokens"] == "75"

    run(check())
