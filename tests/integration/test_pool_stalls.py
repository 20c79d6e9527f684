"""Workers that are alive and of no use: stopped, hanging, never ready, or far too large."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from gateway.pool.base import Limits, PoolRefused, PoolStatus
from shared.errors import ErrorCode
from shared.messages import Finished
from tests.integration import targets
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    collect,
    failure_of,
    kill,
    pids_of,
    ready,
    run,
    running_pid,
    text_of,
    until,
)
from tests.integration.test_pool_rescue import parent_of

MIB = 1 << 20
NEVER_LOADS = ("tests.integration.never_loads",)


def died(cause: str, times: int = 1) -> Callable[[PoolStatus], bool]:
    """All workers are there again, and so many have died."""
    return lambda status: status.totals.deaths == {cause: times} and all_idle(status)


def test_a_worker_that_is_stopped_while_it_runs() -> None:
    async def work() -> None:
        async with ready(workers=2, delay_ms=300) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("ab"))))
            os.kill(await running_pid(pool), signal.SIGSTOP)
            assert text_of(await answer) == "ab"
            await until(pool, died("stopped"))

    run(work())


def test_a_worker_that_is_stopped_in_mid_stream() -> None:
    async def work() -> None:
        async with (
            ready(workers=1, delay_ms=20) as pool,
            aclosing(pool.generate(ask(LONG))) as events,
        ):
            await anext(events), await anext(events)
            os.kill(await running_pid(pool), signal.SIGSTOP)
            *_, last = [event async for event in events]
            assert failure_of([last]) == "worker_crashed"
            status = await until(pool, died("stopped"))
            assert status.totals.quarantined == 0

    run(work())


def test_a_worker_that_is_stopped_while_it_is_idle() -> None:
    async def work() -> None:
        async with ready(workers=2) as pool:
            victim = pids_of(pool)[0]
            os.kill(victim, signal.SIGSTOP)
            await until(pool, died("stopped"))
            assert victim not in pids_of(pool)

    run(work())


def test_a_worker_that_is_stopped_for_a_moment_lives() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=20) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("x" * 100))))
            pid = await running_pid(pool)
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            assert text_of(await answer) == "x" * 100
            assert pool.status().totals.deaths == {}

    run(work())


@pytest.mark.parametrize("order", ["spin", "sleep"])
def test_a_worker_that_makes_no_progress(order: str) -> None:
    async def work() -> None:
        limits = Limits(stall_timeout_s=1.0)
        async with ready(target=targets.obeys, limits=limits) as pool:
            events = await collect(pool.generate(ask(order)))
            assert failure_of(events) == "worker_crashed"
            with pytest.raises(PoolRefused) as refused:
                await collect(pool.generate(ask(order)))
            assert refused.value.code == ErrorCode.WORKER_CRASHED
            await until(pool, died("stalled", 2))

    run(work())


def test_an_abandoned_generation_that_never_ends() -> None:
    async def work() -> None:
        limits = Limits(stall_timeout_s=1.0)
        async with ready(target=targets.obeys, workers=1, limits=limits) as pool:
            async with aclosing(pool.generate(ask("text spin"))) as events:
                await anext(events)
            await until(pool, died("stalled"))
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())


def test_a_long_prefill_is_no_stall() -> None:
    prompt = "x" * 8000  # 16 chunks

    async def work() -> None:
        limits = Limits(stall_timeout_s=2.0)
        async with ready(workers=1, delay_ms=250, limits=limits) as pool:
            events = await collect(pool.generate(ask(prompt, max_tokens=1)))
            assert isinstance(events[-1], Finished)
            assert pool.status().totals.deaths == {}

    run(work())


def test_workers_are_not_blamed_while_the_gateway_itself_stands_still() -> None:
    async def work() -> None:
        limits = Limits(stall_timeout_s=1.0)
        async with (
            ready(workers=1, delay_ms=20, limits=limits) as pool,
            aclosing(pool.generate(ask(LONG))) as events,
        ):
            for _ in range(2):
                await anext(events)
                time.sleep(2)
            await anext(events)
            assert pool.status().totals.deaths == {}

    run(work())


def test_a_zygote_that_is_stopped() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            (victim,) = pids_of(pool)
            os.kill(parent_of(victim), signal.SIGSTOP)
            await kill(victim)
            await until(pool, lambda status: all_idle(status) and victim not in pids_of(pool))
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())


def test_a_worker_that_takes_too_much_memory() -> None:
    async def work() -> None:
        limits = Limits(max_worker_memory=100 * MIB)
        async with ready(target=targets.obeys, limits=limits) as pool:
            *_, last = await collect(pool.generate(ask("take 200")))
            assert failure_of([last]) == "worker_crashed"
            assert "100 MiB of MAX_WORKER_MEMORY" in str(last)
            await until(pool, died("memory", 2))

    run(work())


def test_the_memory_of_workers_is_measured() -> None:
    def is_measured(status: PoolStatus) -> bool:
        return all(worker.memory_bytes is not None for worker in status.workers)

    async def work() -> None:
        async with ready(limits=Limits(max_worker_memory=1000 * MIB)) as pool:
            status = await until(pool, is_measured)
            for worker in status.workers:
                assert MIB < (worker.memory_bytes or 0) < 200 * MIB
            await kill(pids_of(pool)[0])
            await until(pool, lambda status: all_idle(status) and is_measured(status))

    run(work())


def test_nothing_is_taken_that_would_wait_too_long() -> None:
    async def work() -> None:
        # 20 ms for each byte: as many as are expected at first take two seconds.
        limits = Limits(max_queue_seconds=4.0)
        async with ready(workers=1, delay_ms=20, max_queue=1000, limits=limits) as pool:
            tasks = []
            while True:
                tasks.append(asyncio.ensure_future(collect(pool.generate(ask("x" * 100)))))
                await asyncio.sleep(0)
                if tasks[-1].done():
                    break
            refused = await asyncio.gather(tasks.pop(), return_exceptions=True)
            assert isinstance(refused[0], PoolRefused)
            assert refused[0].code == ErrorCode.QUEUE_FULL
            assert "at most 4 s" in str(refused[0])
            assert len(tasks) >= 2
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(pool, all_idle)
            assert text_of(await collect(pool.generate(ask("x")))) == "x"

    run(work())
