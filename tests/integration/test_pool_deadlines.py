"""A real pool of echo workers: generations whose time is over, and what is noted of each."""

import asyncio
import time
from contextlib import aclosing

import pytest

from gateway.pool.base import Terms
from shared.messages import Delta, Failed, Finished
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    collect,
    failure_of,
    heard,
    kill,
    ready,
    run,
    running_pid,
    text_of,
    times_of,
    until,
)

SLOW = 50.0


def in_a_moment() -> float:
    return time.monotonic() + 0.2


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_generation_that_runs_too_long_fails_and_frees_its_worker(is_whole: bool) -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            terms = Terms(is_whole, deadline_s=in_a_moment())
            events = await collect(pool.generate(ask("x" * 400), terms))
            assert failure_of(events) == "request_timeout"
            assert times_of(events).first_s is not None
            assert text_of(events), "what was there before is not lost"
            await until(pool, all_idle)
            assert text_of(await collect(pool.generate(ask("again")))) == "again"

    run(work())


def test_a_deadline_that_has_passed_already() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            terms = Terms(deadline_s=time.monotonic() - 1)
            assert failure_of(await collect(pool.generate(ask(LONG), terms))) == "request_timeout"
            await until(pool, all_idle)

    run(work())


@pytest.mark.parametrize("code", ["queue_timeout", "request_timeout"])
def test_a_generation_that_waits_too_long(code: str) -> None:
    async def work() -> None:
        async with (
            ready(workers=1, delay_ms=SLOW) as pool,
            aclosing(pool.generate(ask(LONG))) as running,
        ):
            await anext(running)
            bounds_s = 0.1, 100.0
            queue_s, whole_s = bounds_s if code == "queue_timeout" else reversed(bounds_s)
            terms = Terms(deadline_s=time.monotonic() + whole_s, queue_timeout_s=queue_s)
            (event,) = await collect(pool.generate(ask("x"), terms))
            assert isinstance(event, Failed) and event.code == code
            assert event.times is not None
            assert event.times.queue_s is None and event.times.runs == 0
            assert pool.status().waiting == 0
            assert isinstance(await anext(running), Delta), "the other goes on"

    run(work())


def test_one_that_has_started_does_not_wait_any_more() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=10) as pool:
            terms = Terms(queue_timeout_s=0.1)
            assert text_of(await collect(pool.generate(ask("x" * 40), terms))) == "x" * 40

    run(work())


@pytest.mark.parametrize("is_whole", [True, False])
def test_times_come_with_the_end(is_whole: bool) -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=2) as pool:
            began_s = time.monotonic()
            events = await collect(pool.generate(ask("hello"), Terms(is_whole)))
            times = times_of(events)
            assert times.queue_s is not None and times.first_s is not None
            assert 0 <= times.queue_s <= times.first_s <= times.total_s
            assert times.total_s <= time.monotonic() - began_s
            assert (times.worker_id, times.runs) == (0, 1)
            assert sum(times.gap_counts) == 4

    run(work())


def test_a_whole_answer_is_run_again_though_a_part_of_it_was_there() -> None:
    async def work() -> None:
        async with ready(workers=2, delay_ms=10) as pool:
            before = heard(pool)
            answer = asyncio.ensure_future(
                collect(pool.generate(ask("x" * 100), Terms(is_whole=True)))
            )
            pid = await running_pid(pool)
            while heard(pool) < before + 20:
                await asyncio.sleep(0.005)
            await kill(pid)
            events = await answer
            assert text_of(events) == "x" * 100
            last = events[-1]
            assert isinstance(last, Finished)
            assert (last.completion_tokens, last.finish_reason) == (100, "stop")
            assert times_of(events).runs == 2

    run(work())
