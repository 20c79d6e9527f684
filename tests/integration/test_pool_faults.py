"""Models that cannot be loaded, and workers that do not do what they should."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.base import PoolRefused
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Delta
from tests.integration import targets
from tests.integration.pools import (
    all_idle,
    ask,
    collect,
    failure_of,
    pids_of,
    ready,
    run,
    started,
    until,
)
from tests.serving import DEADLINE_S, is_alive, wait_for_end


async def refusal(pool: LocalPool) -> tuple[ErrorCode, str]:
    with pytest.raises(PoolRefused) as refused:
        await anext(pool.generate(ask("x")))
    return refused.value.code, str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"this is no model" * 100, b"GGUF\3\0\0\0"])
def test_a_file_that_is_no_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)

    async def work() -> None:
        async with started(config=WorkerConfig("ctransformers", str(path), n_ctx=128)) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason is not None and "model.gguf" in status.reason
            assert status.model is None
            assert {worker.reason for worker in status.workers} == {status.reason}
            code, message = await refusal(pool)
            assert code == ErrorCode.MODEL_UNAVAILABLE
            assert status.reason in message

    run(work())


@pytest.mark.parametrize("target", [targets.exits_at_once, targets.raises_at_once])
def test_workers_that_end_at_once(target: Callable[..., None]) -> None:
    async def work() -> None:
        async with started(target=target) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason is not None and "died before it was ready" in status.reason
            assert all(worker.restarts >= 3 for worker in status.workers)
            assert (await refusal(pool))[0] == ErrorCode.MODEL_UNAVAILABLE

    run(work())


@pytest.mark.parametrize("name", targets.NOT_MESSAGES)
def test_workers_that_send_garbage_are_killed(name: str) -> None:
    async def work() -> None:
        config = WorkerConfig("echo", name)
        async with started(target=targets.sends_garbage, config=config) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason is not None and "exit status -9" in status.reason

    run(work())


def test_workers_that_close_their_pipe_but_live_are_killed() -> None:
    async def work() -> None:
        async with started(target=targets.closes_its_pipe, workers=1) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason is not None and "exit status -9" in status.reason

    run(work())


@pytest.mark.parametrize(
    "target",
    [
        targets.sends_garbage_when_asked,
        targets.closes_its_pipe_when_asked,
        targets.half_a_line,
    ],
)
def test_workers_that_go_wrong_when_asked(target: Callable[..., None]) -> None:
    async def work() -> None:
        config = WorkerConfig("echo", "text")
        async with ready(target=target, config=config) as pool:
            pids = pids_of(pool)
            events = await collect(pool.generate(ask("x")))
            assert failure_of(events) == "worker_crashed"
            await until(pool, all_idle)
            assert not [pid for pid in pids if is_alive(pid)]

    run(work())


def test_a_pool_can_be_closed_while_no_worker_is_ready() -> None:
    async def work() -> None:
        config = WorkerConfig("echo")
        pool = LocalPool(
            config,
            workers=2,
            max_queue=1,
            target=targets.never_ready,
            preparer=targets.never_ready,
        )
        starting = asyncio.create_task(pool.start())
        status = await until(pool, lambda _: len(pids_of(pool)) == 2)
        assert status.state == "starting" and not starting.done()
        assert (await refusal(pool))[0] == ErrorCode.MODEL_LOADING
        pids = pids_of(pool)
        await pool.close()
        await starting
        assert all([await asyncio.to_thread(wait_for_end, pid) for pid in pids])

    run(work())


NEVER_LOADS = ("tests.integration.never_loads",)


@pytest.mark.parametrize("preload", [(), NEVER_LOADS, ("no.such.module",)])
@pytest.mark.parametrize("turns", [0, 1, 1000])
def test_a_pool_can_be_closed_as_soon_as_it_is_started(
    preload: tuple[str, ...], turns: int
) -> None:
    async def work() -> None:
        pool = LocalPool(
            WorkerConfig("echo"), workers=2, max_queue=1, target=targets.never_ready,
            preparer=targets.never_ready, preload=preload,
        )  # fmt: skip
        starting = asyncio.create_task(pool.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(pool.close(), DEADLINE_S)
        await starting
        assert pids_of(pool) == []

    run(work())


def test_the_threads_are_shared_out_among_those_that_run() -> None:
    async def next_threads(events: Any) -> str:
        while not isinstance(event := await anext(events), Delta):
            pass
        return event.text

    async def work() -> None:
        config = WorkerConfig("echo", threads=6)
        async with (
            ready(target=targets.tells_threads, config=config, workers=3) as pool,
            aclosing(pool.generate(ask("first"))) as first,
        ):
            assert await next_threads(first) == "6"
            async with aclosing(pool.generate(ask("second"))) as second:
                assert await next_threads(second) == "3"
                assert await next_threads(first) == "3"
                async with aclosing(pool.generate(ask("third"))) as third:
                    assert await next_threads(third) == "2"
                    assert await next_threads(second) == "2"
                    assert await next_threads(first) == "2"
                assert await next_threads(first) == "3"
                assert await next_threads(second) == "3"
            assert await next_threads(first) == "6"

    run(work())
