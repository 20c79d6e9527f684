"""Workers that run several generations together, and who is blamed when one of them dies."""

import asyncio
import signal
from contextlib import aclosing

import pytest

from gateway.pool.base import PoolRefused, Terms
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Delta, Prefilled
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
    text_of,
    times_of,
    until,
)

WHOLE = Terms(is_whole=True)


def slots(n: int = 4, delay_ms: float = 20.0) -> WorkerConfig:
    return WorkerConfig("echo", slots=n, echo_delay_ms=delay_ms)


def test_a_worker_runs_as_many_as_it_has_slots() -> None:
    async def work() -> None:
        async with ready(workers=1, config=slots()) as pool:
            assert pool.status().max_running == 4
            texts = [letter * 30 for letter in "abcde"]
            answers = [asyncio.ensure_future(collect(pool.generate(ask(text)))) for text in texts]
            status = await until(pool, lambda status: status.running == 4)
            assert (status.waiting, status.workers[0].running) == (1, 4)
            assert [text_of(await answer) for answer in answers] == texts

    run(work())


def test_a_slot_is_free_after_a_cancellation_and_the_others_go_on() -> None:
    async def work() -> None:
        async with ready(workers=1, config=slots(2)) as pool:
            async with aclosing(pool.generate(ask(LONG))) as long:
                assert isinstance(await anext(long), Prefilled)
                other = asyncio.ensure_future(collect(pool.generate(ask("x" * 40))))
                await until(pool, lambda status: status.running == 2)
                assert isinstance(await anext(long), Delta)
            await until(pool, lambda status: status.running == 1)
            assert text_of(await collect(pool.generate(ask("next")))) == "next"
            assert text_of(await other) == "x" * 40

    run(work())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_all_that_a_dead_worker_ran_is_answered(number: signal.Signals) -> None:
    async def work() -> None:
        async with ready(workers=1, config=slots()) as pool:
            texts = [letter * 20 for letter in "abcd"]
            answers = [
                asyncio.ensure_future(collect(pool.generate(ask(text), WHOLE))) for text in texts
            ]
            status = await until(pool, lambda status: status.running == 4)
            (victim,) = {worker.pid for worker in status.workers}
            assert victim is not None
            await kill(victim, number)
            for answer, text in zip(answers, texts, strict=True):
                assert text_of(await answer) == text
                assert times_of(await answer).runs == 2
            assert (await until(pool, all_idle)).totals.quarantined == 0

    run(work())


def test_only_a_death_alone_is_proof() -> None:
    async def work() -> None:
        async with ready(
            workers=1, config=slots(delay_ms=50), target=targets.dies_of_poison
        ) as pool:
            texts = [letter * 10 for letter in "abc"]
            answers = [
                asyncio.ensure_future(collect(pool.generate(ask(text), WHOLE)))
                for text in (*texts, targets.POISON)
            ]
            await until(pool, lambda status: status.running == 4)
            *innocent, guilty = [await answer for answer in answers]
            assert [text_of(events) for events in innocent] == texts
            assert failure_of(guilty) == "worker_crashed"
            status = await until(pool, all_idle)
            assert (status.totals.deaths, status.totals.quarantined) == ({"crashed": 2}, 1)
            with pytest.raises(PoolRefused) as refused:
                await collect(pool.generate(ask(targets.POISON)))
            assert refused.value.code is ErrorCode.WORKER_CRASHED
            assert len(pids_of(pool)) == 1

    run(work())
