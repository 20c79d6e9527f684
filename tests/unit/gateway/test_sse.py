"""Framing, and the life of a stream."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway import sse
from gateway.dialects import EVENT_STREAM, event
from gateway.errors import ApiError, error_body
from shared.errors import ErrorCode


def failed(error: ApiError) -> bytes:
    return event(error_body(error))


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
        await asyncio.wait_for(
            sse.EventStream(EVENT_STREAM, events, lambda: b"end", failed)(
                {}, self.receive, self.send
            ),
            5,
        )
        assert self.sent[0]["type"] == "http.response.start"
        assert self.sent[-1]["more_body"] is False
        return b"".join(message["body"] for message in self.sent[1:])


def test_an_event_is_one_line_and_a_blank_one() -> None:
    assert event({"a": "x\ny"}) == b'data: {"a":"x\\ny"}\n\n'


def test_a_stream_sends_each_chunk_as_it_comes() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"

    async def scenario() -> None:
        client = Client()
        assert await client.get(events()) == b"onetwoend"
        assert client.sent[0]["status"] == 200
        headers = dict(client.sent[0]["headers"])
        assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
        assert headers[b"cache-control"] == b"no-cache"
        assert b"content-length" not in headers

    asyncio.run(scenario())


def test_an_error_before_the_first_chunk_is_an_ordinary_error() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        raise ApiError(ErrorCode.WORKER_CRASHED, "It broke.")
        yield b""

    async def scenario() -> None:
        client = Client()
        with pytest.raises(ApiError):
            await client.get(events())
        assert client.sent == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(ErrorCode.WORKER_CRASHED, "It broke."), b'"worker_crashed"'),
        (KeyError("secret"), b'"internal_error"'),
    ],
)
def test_an_error_after_the_first_chunk_is_the_last_event(error: Exception, code: bytes) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise error

    body = asyncio.run(_body(events()))
    assert body.startswith(b'onedata: {"error":{') and body.endswith(b"}}\n\n")
    assert code in body and b"secret" not in body and b"[DONE]" not in body


async def _body(events: AsyncGenerator[bytes, None]) -> bytes:
    return await Client().get(events)


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


def test_finished_work_is_returned_even_if_the_client_leaves_at_once() -> None:
    async def scenario() -> None:
        client = Client()

        async def work() -> str:
            client.left.set()
            return "done"

        assert await sse.until_disconnect(client.receive, work()) == "done"

    asyncio.run(scenario())


def test_cancelling_the_request_cancels_the_work() -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        begun = asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        task = asyncio.create_task(sse.until_disconnect(Client().receive, work()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(scenario())
