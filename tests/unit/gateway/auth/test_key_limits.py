"""The limits of keys, around an application that says what it used."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import create_app
from gateway.auth.guard import KeyGuard
from gateway.auth.key_file import FixedKeys
from gateway.auth.limits import COUNTED_PATHS, KeyLimits
from gateway.auth.rate import Rates
from gateway.errors import UnexpectedErrors
from gateway.observe.log import RequestLog
from gateway.observe.record import RequestRecord, record_of
from gateway.pool.base import GenerationRecord
from tests.unit.gateway.auth.asking import COMPLETION
from tests.unit.gateway.fakes import CONFIG, ScriptedPool, error

PATH = COUNTED_PATHS[0]


class Limited:
    """An application behind keys and limits; its clock stands still unless it is moved.

    Attributes:
        choices: how many generations a request asks for, of one prompt.
        prompt_tokens: what each generation finds in its prompt.
        completion_tokens: what each generation makes, after its answer has begun.
        answer: waited for before a generation ends.
    """

    def __init__(self, rates: Rates) -> None:
        self.now_s = 0.0
        self.choices, self.prompt_tokens, self.completion_tokens = 1, 0, 0
        self.answer: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
        self.app = Starlette(
            middleware=[
                Middleware(RequestLog),
                Middleware(UnexpectedErrors),
                Middleware(KeyGuard, FixedKeys("a:key-of-a,b:key-of-b")),
                Middleware(KeyLimits, rates, lambda: self.now_s),
            ]
        )
        self.app.router.default = self._generate

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.choices = self.choices
        noted = [GenerationRecord(prompt_tokens=self.prompt_tokens) for _ in range(self.choices)]
        record.generations = noted
        response: ASGIApp = PlainTextResponse("ok")
        if scope["path"].startswith("/v2"):
            response = StreamingResponse(self._stream(noted))
        else:
            await self.answer()
            self._complete(noted)
        await response(scope, receive, send)

    async def _stream(self, noted: Sequence[GenerationRecord]):  # type: ignore[no-untyped-def]
        yield b"begun"
        await self.answer()
        self._complete(noted)

    def _complete(self, noted: Sequence[GenerationRecord]) -> None:
        for each in noted:
            each.completion_tokens = self.completion_tokens

    async def post(self, key: str = "key-of-a", path: str = PATH) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, headers={"x-api-key": key})


def test_what_is_counted_is_what_evaluates_prompts() -> None:
    described = create_app(CONFIG, ScriptedPool()).openapi()["paths"]
    posts = {path for path, methods in described.items() if "post" in methods}
    free = {"/tokenize", "/detokenize", "/apply-template", "/v1/chat/completions/input_tokens"}
    assert {path for path in posts if not path.startswith("/admin/")} == {*COUNTED_PATHS, *free}


def test_requests_beyond_the_limit_are_refused_until_there_is_room() -> None:
    async def check() -> None:
        limited = Limited(Rates(requests=2))
        first = await limited.post()
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "30s"
        assert "x-ratelimit-limit-tokens" not in first.headers
        assert (await limited.post()).status_code == 200
        refused = await limited.post()
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-request-id"]
        # Another key has limits of its own, and what does not generate has none.
        assert (await limited.post("key-of-b")).status_code == 200
        other = await limited.post(path="/v1/models")
        assert other.status_code == 200 and "x-ratelimit-limit-requests" not in other.headers
        limited.now_s = 30
        assert (await limited.post()).status_code == 200

    asyncio.run(check())


@pytest.mark.parametrize("path", ["/v1/completions", "/v2/chat/completions"])
def test_tokens_are_charged_when_they_are_known(path: str) -> None:
    async def check() -> None:
        limited = Limited(Rates(tokens=60))
        limited.prompt_tokens, limited.completion_tokens = 10, 80
        answer = await limited.post(path=path)
        known = 50 if path.startswith("/v2") else 0  # of a stream only the prompt
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(known)
        refused = await limited.post(path=path)
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert refused.headers["retry-after"] == "31"
        assert refused.headers["x-ratelimit-reset-tokens"] == "1m30s"
        limited.now_s = 31
        assert (await limited.post(path=path)).status_code == 200

    asyncio.run(check())


@pytest.mark.parametrize("path", ["/v1/completions", "/v2/chat/completions"])
@pytest.mark.parametrize("end", ["answer", "error", "cancel"])
def test_requests_at_the_same_time_are_counted_until_they_end(path: str, end: str) -> None:
    async def check() -> None:
        limited = Limited(Rates(concurrent=1, tokens=1000))
        limited.prompt_tokens = 5
        running = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()

        async def answer() -> None:
            begun.set()
            await running

        limited.answer = answer
        first = asyncio.create_task(limited.post(path=path))
        await begun.wait()
        refused = await limited.post()
        assert error(refused) == (429, "rate_limit_exceeded", None)
        assert int(refused.headers["retry-after"]) > 0
        assert "at the same time" in refused.json()["error"]["message"]
        if end == "answer":
            running.set_result(None)
        elif end == "error":
            running.set_exception(RuntimeError("a bug"))
        else:
            first.cancel()
        await asyncio.wait([first])
        if not first.cancelled():
            first.exception()
        limited.answer = lambda: asyncio.sleep(0)
        again = await limited.post()
        assert again.status_code == 200
        # Whatever became of the first, its prompt was charged.
        assert again.headers["x-ratelimit-remaining-tokens"] == "990"

    asyncio.run(check())


def test_the_headers_have_openais_form() -> None:
    async def check() -> None:
        answer = await Limited(Rates(requests=7, tokens=11)).post()
        for kind in ("requests", "tokens"):
            assert answer.headers[f"x-ratelimit-limit-{kind}"].isdecimal()
            assert answer.headers[f"x-ratelimit-remaining-{kind}"].isdecimal()
            form = r"(\d+h)?(\d+m)?\d+s|\d+ms"
            assert re.fullmatch(form, answer.headers[f"x-ratelimit-reset-{kind}"])

    asyncio.run(check())


def test_a_prompt_that_choices_share_is_charged_once() -> None:
    async def check() -> None:
        limited = Limited(Rates(tokens=100))
        limited.choices, limited.prompt_tokens, limited.completion_tokens = 3, 10, 5
        answer = await limited.post()
        assert answer.headers["x-ratelimit-remaining-tokens"] == "75"

    asyncio.run(check())


def test_what_is_charged_knows_how_many_choices_share_a_prompt() -> None:
    records: list[RequestRecord] = []

    async def check() -> None:
        app = create_app(CONFIG, ScriptedPool(), observers=[records.append])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post(PATH, json={**COMPLETION, "prompt": ["a", "b"], "n": 3})

    asyncio.run(check())
    (record,) = records
    assert (len(record.generations), record.choices) == (6, 3)
