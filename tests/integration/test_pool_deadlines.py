"""A real pool of echo workers: generations whose time is over, and what is noted of each."""

import asyncio
import time
from contextlib import aclosing

import pytest

from gateway.pool.base import GenerationRecord, Terms
from shared.messages import Delta, Failed, Finished, Prefilled
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    collect,
    failure_of,
    kill,
    ready,
    run,
    running_pid,
    text_of,
    until,
)

SLOW = 50.0


def in_a_moment() -> float:
    return time.monotonic() + 0.2


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_generation_that_runs_too_long_fails_and_frees_its_worker(is_whole: bool) -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            record = GenerationRecord()
            terms = Terms(is_whole, deadline_s=in_a_moment())
            events = await collect(pool.generate(ask("x" * 400), terms, record))
            assert failure_of(events) == record.outcome == "request_timeout"
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
            record, bounds_s = GenerationRecord(), (0.1, 100.0)
            queue_s, whole_s = bounds_s if code == "queue_timeout" else reversed(bounds_s)
            terms = Terms(deadline_s=time.monotonic() + whole_s, queue_timeout_s=queue_s)
            (event,) = await collect(pool.generate(ask("x"), terms, record))
            assert isinstance(event, Failed) and event.code == code == record.outcome
            assert record.started_s is None and record.runs == 0
            assert pool.status().waiting == 0
            assert isinstance(await anext(running), Delta), "the other goes on"

    run(work())


def test_one_that_has_started_does_not_wait_any_more() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=10) as pool:
            terms = Terms(queue_timeout_s=0.1)
            assert text_of(await collect(pool.generate(ask("x" * 40), terms))) == "x" * 40

    run(work())


def test_what_is_noted() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=2) as pool:
            record = GenerationRecord()
            began_s = time.monotonic()
            await collect(pool.generate(ask("hello"), record=record))
            times = [record.submitted_s, record.started_s, record.first_s, record.ended_s]
            assert None not in times
            assert times == sorted(times, key=lambda time_s: time_s or 0.0)
            assert began_s <= (times[0] or 0) and (times[-1] or 0) <= time.monotonic()
            assert (record.worker_id, record.runs, record.outcome) == (0, 1, "stop")
            assert (record.prompt_tokens, record.completion_tokens) == (5, 5)
            assert record.decode_ms > 0

            again = GenerationRecord()
            async with aclosing(pool.generate(ask("hello you"), record=again)) as events:
                assert isinstance(await anext(events), Prefilled)
                assert isinstance(await anext(events), Delta)
            assert (again.outcome, again.cached_tokens) == ("cancelled", 5)
            assert again.completion_tokens >= 1

    run(work())


def test_a_whole_answer_is_run_again_though_a_part_of_it_was_there() -> None:
    async def work() -> None:
        async with ready(workers=2, delay_ms=10) as pool:
            record = GenerationRecord()
            answer = asyncio.ensure_future(
                collect(pool.generate(ask("x" * 100), Terms(is_whole=True), record))
            )
            pid = await running_pid(pool)
            while record.completion_tokens < 20:
                await asyncio.sleep(0.005)
            await kill(pid)
            events = await answer
            assert text_of(events) == "x" * 100
            assert isinstance(events[-1], Finished)
            assert (record.runs, record.completion_tokens, record.outcome) == (2, 100, "stop")

    run(work())
