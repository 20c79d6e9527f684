"""The life of a stream, and of a request whose client or whose time is over."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.answer.run import Tally
from gateway.bounds import TimeBounds, interruptible, while_connected
from gateway.errors import ApiError
from gateway.sse import send_events
from shared.errors import ErrorCode
from tests.unit.gateway.answers import HEADER, chat


class Client:
    """The other end of one response."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def get(self, events: AsyncGenerator[bytes, None]) -> bytes:
        dialect, ask = chat(stream=True)
        with interruptible() as interrupt, while_connected(self.receive, interrupt):
            await send_events({}, self.send, events, dialect.writer(ask, HEADER), Tally(1))
        assert self.sent[0]["type"] == "http.response.start"
        assert self.sent[-1]["more_body"] is False
        return b"".join(message["body"] for message in self.sent[1:])


def test_a_stream_sends_each_chunk_as_it_comes() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b""
        yield b"two"

    async def scenario() -> None:
        client = Client()
        assert await client.get(events()) == b"onetwodata: [DONE]\n\n"
        assert [message.get("body") for message in client.sent[1:3]] == [b"one", b"two"]
        headers = dict(client.sent[0]["headers"])
        assert headers[b"cache-control"] == b"no-cache"
        assert b"content-length" not in headers

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(ErrorCode.WORKER_CRASHED, "It broke."), b'"worker_crashed"'),
        (KeyError("secret"), b'"internal_error"'),
    ],
)
@pytest.mark.parametrize("has_begun", [True, False])
def test_an_error_is_the_last_event_or_an_ordinary_error(
    error: Exception, code: bytes, has_begun: bool
) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        if has_begun:
            yield b"one"
        raise error

    async def scenario() -> None:
        client = Client()
        if not has_begun:
            with pytest.raises(type(error)):
                await client.get(events())
            assert client.sent == []
            return
        body = await client.get(events())
        assert body.startswith(b'onedata: {"error":{') and body.endswith(b"}}\n\n")
        assert code in body and b"secret" not in body and b"[DONE]" not in body

    asyncio.run(scenario())


@pytest.mark.parametrize("chunks", [0, 1])
def test_a_client_that_leaves_closes_the_generator(chunks: int) -> None:
    async def scenario() -> None:
        client = Client()
        closed = False

        async def events() -> AsyncGenerator[bytes, None]:
            nonlocal closed
            try:
                for _ in range(chunks):
                    yield b"one"
                client.left.set()
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)  # closing may take its time
                closed = True

        with pytest.raises(ClientDisconnect):
            await client.get(events())
        assert closed
        assert len(client.sent) == 2 * chunks

    asyncio.run(scenario())


async def forever(*_: Any) -> None:
    await asyncio.get_running_loop().create_future()


def test_a_block_ends_at_its_deadline_and_not_after_it() -> None:
    async def scenario() -> None:
        bounds = TimeBounds(0.001, time.monotonic() + 0.001)
        with (
            pytest.raises(ApiError, match=r"longer than 0\.001 seconds"),
            interruptible() as interrupt,
            bounds.applied(interrupt),
        ):
            await forever()
        if sys.version_info >= (3, 11):
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0
        with interruptible() as interrupt:
            with TimeBounds(60.0, time.monotonic() + 60.0).applied(interrupt):
                pass
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_work_that_ends_as_its_client_leaves_has_ended() -> None:
    async def scenario() -> None:
        client = Client()
        with interruptible() as interrupt, while_connected(client.receive, interrupt):
            await asyncio.sleep(0)  # the watch has begun
            client.left.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_cancelling_a_request_is_no_interruption() -> None:
    async def scenario() -> None:
        begun = asyncio.Event()

        async def request() -> None:
            with interruptible() as interrupt, while_connected(Client().receive, interrupt):
                begun.set()
                await forever()

        task = asyncio.create_task(request())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
