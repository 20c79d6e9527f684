"""A pool that plays a script, and ways to reach an application that serves it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx

from gateway.app import create_app
from gateway.models import ServingConfig
from gateway.pool.base import (
    DEFAULT_TERMS,
    PoolRefused,
    PoolStatus,
    Terms,
    WorkerStatus,
)
from shared.errors import ErrorCode
from shared.messages import (
    Chat,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Prefilled,
    Prepare,
    Prepared,
    Question,
    Text,
)

MODEL = ModelInfo("llama", n_ctx=100, n_vocab=300, max_token_bytes=20, eos_token="</s>",
                  chat_template="{{ messages }}", chat_format="plain")  # fmt: skip
READY = PoolStatus(
    state="ready",
    reason=None,
    model=MODEL,
    workers=tuple(WorkerStatus(i, "idle", 100 + i, 0) for i in range(2)),
    waiting=0,
    max_queue=4,
    max_running=2,
)
CONFIG = ServingConfig("org/model", "/models/m.gguf", workers=2, max_body_bytes=10_000, created=1)

Script = Callable[[Generate], Sequence[Event | Exception | None]]
"""What a generation does; None waits until it is cancelled."""


def prefilled(request: Generate, prompt_tokens: int = 5, cached_tokens: int = 2) -> Prefilled:
    return Prefilled(request.request_id, prompt_tokens, cached_tokens, 1.0)


def deltas(request: Generate, *texts: str) -> list[Event]:
    return [Delta(request.request_id, text, 1) for text in texts]


def finished(request: Generate, reason: str = "stop", tokens: int = 2) -> Finished:
    return Finished(request.request_id, reason, tokens, 1.0)


def failed(request: Generate, code: str = "worker_crashed") -> Failed:
    return Failed(request.request_id, code, "It broke.")


def says(*texts: str) -> Script:
    """A generation that goes well."""
    return lambda request: [prefilled(request), *deltas(request, *texts), finished(request)]


Oracle = Callable[[Question], Prepared | Failed | Exception | None]
"""What comes of a question; None waits until it is cancelled."""


def bytewise(question: Question) -> Prepared:
    """Tokens are bytes; 256 is put in front that begins a sequence, and has no text."""
    if isinstance(question, Prepare):
        begin = (256,) if question.begins and question.prompt is not None else ()
        ids = (*begin, *_rendered(question.prompt).encode())
    else:
        begin, ids = (), question.ids
    pieces = tuple([text_of((token,)) for token in ids])
    return Prepared(question.request_id, ids, text_of(ids), pieces, len(begin))


def _rendered(prompt: Chat | Text | None) -> str:
    match prompt:
        case Chat(messages):
            turns = [f"{message['role']}: {message['content']}\n" for message in messages]
            return "".join(turns) + "assistant:"
        case Text(text, suffix):
            return text + suffix
    return ""


def text_of(ids: Sequence[int]) -> str:
    """The text of ids that `bytewise` has made."""
    return bytes(token for token in ids if token < 256).decode("utf-8", "replace")


class ScriptedPool:
    """A `WorkerPool` without workers."""

    def __init__(
        self,
        script: Script | None = None,
        status: PoolStatus = READY,
        oracle: Oracle = bytewise,
    ) -> None:
        self.script = script or says("Hel", "lo")
        self.oracle = oracle
        self.current = status
        self.requests: list[Generate] = []
        self.questions: list[Question] = []
        self.cancelled: list[str] = []
        self.closed = False

    async def start(self) -> None:
        pass

    async def generate(
        self,
        request: Generate,
        terms: Terms = DEFAULT_TERMS,
    ) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        try:
            for step in self.script(request):
                if step is None:
                    await asyncio.get_running_loop().create_future()
                elif isinstance(step, Exception):
                    raise step
                else:
                    await asyncio.sleep(0)
                    yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.request_id)
            raise

    async def prepare(self, question: Question) -> Prepared | Failed:
        self.questions.append(question)
        answer = self.oracle(question)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cancelled.append(question.request_id)
        assert answer is not None
        return answer

    def admit(self, n: int = 1) -> ModelInfo:
        """As a pool without workers would, but for how long to wait."""
        status = self.current
        if status.state == "closing":
            raise PoolRefused(ErrorCode.SHUTTING_DOWN, "The server is shutting down.", 5)
        if status.state == "failed":
            raise PoolRefused(ErrorCode.MODEL_UNAVAILABLE, f"It failed: {status.reason}", 5)
        if status.model is None:
            raise PoolRefused(ErrorCode.MODEL_LOADING, "The model is still loading.", 5)
        if status.reason is not None:
            raise PoolRefused(ErrorCode.INSUFFICIENT_MEMORY, status.reason, 5)
        idle = sum(worker.state == "idle" for worker in status.workers)
        if status.waiting + n > idle + status.max_queue:
            message = f"{status.waiting} requests wait already."
            raise PoolRefused(ErrorCode.QUEUE_FULL, message, 5)
        return status.model

    def status(self) -> PoolStatus:
        return self.current

    async def close(self) -> None:
        self.closed = True


def request(
    pool: ScriptedPool,
    method: str,
    path: str,
    config: ServingConfig = CONFIG,
    **kwargs: Any,
) -> httpx.Response:
    """Send one request to an application without sockets."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(config, pool))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(asyncio.wait_for(send(), 10))


def post(pool: ScriptedPool, path: str, body: Any, **kwargs: Any) -> httpx.Response:
    return request(pool, "POST", path, json=body, **kwargs)


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an error, whose body must have the right shape."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"], body["error"]["param"]


def loading(**changes: Any) -> PoolStatus:
    """The status of a pool that has no model yet."""
    workers = tuple(replace(worker, state="starting") for worker in READY.workers)
    return replace(READY, state="starting", model=None, workers=workers, **changes)
