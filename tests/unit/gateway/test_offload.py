"""Small work runs on the event loop, large work beside it."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.errors import ApiError
from gateway.offload import Offload
from shared.errors import ErrorCode
from shared.logging import request_id_var

LARGE = 1 << 20
HERE = threading.get_ident


async def stays() -> Message:
    """What a client that does not leave sends: nothing more."""
    message: Message = await asyncio.get_running_loop().create_future()
    return message


def compute_long() -> None:
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass


@pytest.fixture
def offload() -> Iterator[Offload]:
    offload = Offload(3)
    yield offload
    offload.close()


def test_small_work_is_done_at_once(offload: Offload) -> None:
    assert asyncio.run(offload.run(stays, 100, HERE)) == HERE()


def test_large_work_leaves_the_event_loop_free(offload: Offload) -> None:
    async def scenario() -> None:
        gate = threading.Event()
        first = asyncio.create_task(offload.run(stays, LARGE, lambda: (gate.wait(5), HERE())[1]))
        second = asyncio.create_task(offload.run(stays, LARGE, HERE))
        assert await offload.run(stays, 100, HERE) == HERE()  # while the first one is at work
        assert not first.done()
        gate.set()
        assert await first == await second != HERE()

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("n_bytes", [100, LARGE])
def test_what_is_raised_there_is_raised_here(offload: Offload, n_bytes: int) -> None:
    def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        asyncio.run(offload.run(stays, n_bytes, work))


def test_what_twice_took_long_is_not_done_on_the_loop_again(offload: Offload) -> None:
    async def scenario() -> None:
        await offload.run(stays, 20_000, compute_long)
        # What is smaller says nothing about what took long.
        assert await offload.run(stays, 100, HERE) == HERE()
        await offload.run(stays, 16_000, compute_long)
        assert await offload.run(stays, 10_001, HERE) != HERE()
        assert await offload.run(stays, 10_000, HERE) == HERE()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_what_took_long_once_is_an_accident(offload: Offload) -> None:
    async def scenario() -> None:
        for _ in range(3):
            await offload.run(stays, 20_000, compute_long)
            assert await offload.run(stays, 20_000, HERE) == HERE()
            assert await offload.run(stays, 30_000, HERE) == HERE()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_what_is_tiny_is_done_at_once_however_long_it_took(offload: Offload) -> None:
    async def scenario() -> None:
        for _ in range(4):
            await offload.run(stays, 120, compute_long)
        assert await offload.run(stays, 4096, HERE) == HERE()
        assert await offload.run(stays, 4097, HERE) != HERE()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_what_waits_is_bounded_and_dropped_when_its_client_leaves(offload: Offload) -> None:
    async def scenario() -> None:
        begun, gate, leaving = threading.Event(), threading.Event(), asyncio.Event()
        done = []

        async def leaves() -> Message:
            await leaving.wait()
            return {"type": "http.disconnect"}

        def first() -> None:
            begun.set()
            gate.wait(5)

        tasks = [
            asyncio.create_task(offload.run(stays, LARGE, first)),
            asyncio.create_task(offload.run(leaves, LARGE, lambda: done.append("left"))),
            asyncio.create_task(offload.run(stays, LARGE, lambda: done.append("stayed"))),
        ]
        await asyncio.to_thread(begun.wait, 5)
        with pytest.raises(ApiError, match=r"3 large requests .* of at most 3") as refused:
            await offload.run(stays, LARGE, HERE)
        assert refused.value.code is ErrorCode.QUEUE_FULL
        leaving.set()
        with pytest.raises(ClientDisconnect):
            await tasks[1]
        more = asyncio.create_task(offload.run(stays, LARGE, lambda: done.append("later")))
        assert not tasks[0].done()
        gate.set()
        await asyncio.gather(tasks[0], tasks[2], more)
        assert done == ["stayed", "later"]

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_no_garbage_is_collected_while_a_large_body_is_worked_on(offload: Offload) -> None:
    def fail() -> None:
        raise KeyError("x")

    async def scenario() -> None:
        assert await offload.run(stays, LARGE, gc.isenabled) is False
        assert gc.isenabled()
        with pytest.raises(KeyError):
            await offload.run(stays, LARGE, fail)
        assert gc.isenabled()
        gc.disable()
        try:
            await offload.run(stays, LARGE, HERE)
            assert not gc.isenabled()
        finally:
            gc.enable()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_exception_does_not_hold_what_the_body_was_made_into(offload: Offload) -> None:
    class Parsed:
        pass

    made: list[weakref.ref[Parsed]] = []

    def work() -> None:
        parsed = Parsed()
        made.append(weakref.ref(parsed))
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        asyncio.run(offload.run(stays, LARGE, work))
    assert caught.tb is not None and made[0]() is None


def test_a_large_body_is_worked_on_in_the_context_of_its_request(offload: Offload) -> None:
    async def scenario() -> None:
        request_id_var.set("req-1")
        assert await offload.run(stays, LARGE, request_id_var.get) == "req-1"

    asyncio.run(scenario())
