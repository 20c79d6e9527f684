"""Workers that die while they run something, and what becomes of that."""

import asyncio
import signal
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import as_api_error
from gateway.pool.base import PoolRefused, Terms
from gateway.pool.faults import MOST_KILLS
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.messages import Delta, Finished, Generate
from tests.integration import targets
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    collect,
    failure_of,
    heard,
    kill,
    pids_of,
    ready,
    run,
    running_pid,
    text_of,
    times_of,
    until,
)

SLOW = 200.0


async def is_refused(pool: LocalPool, request: Generate) -> bool:
    try:
        await collect(pool.generate(request))
    except PoolRefused as error:
        response = as_api_error(error).response()
        assert response.status_code == 500
        assert response.headers["x-should-retry"] == "false"
        assert b"worker_crashed" in response.body
        return True
    return False


@pytest.mark.parametrize("order", ["SIGSEGV", "SIGABRT", "exit"])
def test_a_request_that_kills_workers_is_not_taken_any_more(order: str) -> None:
    async def work() -> None:
        async with ready(target=targets.obeys) as pool:
            events = await collect(pool.generate(ask(order)))
            assert failure_of(events) == "worker_crashed"
            assert len(events) == 1
            assert await is_refused(pool, ask(order))
            assert text_of(await collect(pool.generate(ask("other")))) == "other"
            totals = (await until(pool, all_idle)).totals
            assert (totals.deaths, totals.quarantined) == ({"crashed": 2}, 1)

    run(work())


def test_a_request_that_kills_in_mid_stream_is_not_taken_for_ever() -> None:
    async def work() -> None:
        async with ready(target=targets.obeys) as pool:
            for _ in range(3):
                events = await collect(pool.generate(ask("text SIGSEGV")))
                assert text_of(events) == "text"
                assert failure_of(events) == "worker_crashed"
            assert await is_refused(pool, ask("text SIGSEGV"))

    run(work())


def test_equal_requests_that_lose_one_worker_each_are_answered() -> None:
    async def work() -> None:
        async with ready(workers=3, delay_ms=SLOW) as pool:
            answers = [
                asyncio.ensure_future(collect(pool.generate(ask("ab"), Terms(is_whole=True))))
                for _ in range(3)
            ]
            await until(pool, lambda status: status.running == 3)
            await asyncio.gather(*(kill(pid, signal.SIGSEGV) for pid in pids_of(pool)))
            assert [text_of(await answer) for answer in answers] == ["ab"] * 3
            assert text_of(await collect(pool.generate(ask("ab")))) == "ab", "it is not held"
            assert (await until(pool, all_idle)).totals.deaths == {"crashed": 3}

    run(work())


def test_a_death_by_bad_luck_is_forgotten_when_the_request_succeeds(tmp_path: Path) -> None:
    async def work() -> None:
        async with ready(target=targets.obeys) as pool:
            mark = tmp_path / "mark"
            for _ in range(3):
                events = await collect(pool.generate(ask(f"once {mark} SIGSEGV")))
                assert isinstance(events[-1], Finished)
                mark.unlink()
            totals = (await until(pool, all_idle)).totals
            assert (totals.deaths, totals.quarantined) == ({"crashed": 3}, 0)

    run(work())


@pytest.mark.parametrize("workers", [1, 2])
def test_kills_from_outside_are_not_seen_by_who_has_seen_nothing(workers: int) -> None:
    async def work() -> None:
        async with ready(workers=workers, delay_ms=SLOW) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("ab"))))
            victim = None
            for _ in range(4):
                victim = await running_pid(pool, other_than=victim)
                await kill(victim)
            assert text_of(await answer) == "ab"
            assert times_of(await answer).runs == 5
            totals = (await until(pool, all_idle)).totals
            assert (totals.deaths, totals.quarantined) == ({"killed": 4}, 0)

    run(work())


def test_kills_without_end() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=60_000) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("ab"))))
            victim = None
            for _ in range(MOST_KILLS + 1):
                victim = await running_pid(pool, other_than=victim)
                await kill(victim)
            assert failure_of(await answer) == "model_unavailable"
            status = await until(pool, all_idle)
            assert status.totals.quarantined == 0

    run(work())


def test_a_generation_that_ends_while_its_worker_dies() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            for _ in range(5):
                async with aclosing(pool.generate(ask(LONG))) as events:
                    first = asyncio.ensure_future(anext(events))
                    victim = await running_pid(pool)
                    await kill(victim)
                    # The end of its pipe is noticed first, why it has died a moment later.
                    await until(pool, lambda status: status.running == 0)
                    first.cancel()
                    await asyncio.gather(first, return_exceptions=True)
                await until(pool, all_idle)
            assert text_of(await collect(pool.generate(ask("ok")))) == "ok"
            assert pool.status().totals.deaths == {"killed": 5}

    run(work())


def test_many_that_die_at_once() -> None:
    async def work() -> None:
        async with ready(workers=6, delay_ms=20) as pool:
            answers = [
                asyncio.ensure_future(
                    collect(pool.generate(ask(f"{n}" * 20), Terms(is_whole=True)))
                )
                for n in range(6)
            ]
            await until(pool, lambda status: status.running == 6)
            await asyncio.gather(*(kill(pid) for pid in pids_of(pool)))
            assert [text_of(await answer) for answer in answers] == [f"{n}" * 20 for n in range(6)]
            assert (await until(pool, all_idle)).totals.deaths == {"killed": 6}

    run(work())


def test_a_draining_pool_still_rescues() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("ab"))))
            victim = await running_pid(pool)
            pool.stop_accepting()
            with pytest.raises(PoolRefused, match="shutting down"):
                await collect(pool.generate(ask("late")))
            await kill(victim)
            await pool.idle()
            assert text_of(await answer) == "ab"

    run(work())


def test_the_text_of_a_model_is_the_same_after_a_kill(demo_model: Path) -> None:
    config = WorkerConfig("llamacpp", str(demo_model), n_ctx=256)

    async def work() -> None:
        async with ready(config=config) as pool:
            request = ask("The capital of France is", max_tokens=60)
            undisturbed = text_of(await collect(pool.generate(request)))
            before = heard(pool)
            again = replace(request, request_id="again")
            answer = asyncio.ensure_future(collect(pool.generate(again, Terms(is_whole=True))))
            while heard(pool) < before + 6:
                assert not answer.done(), "it was too fast for this test"
                await asyncio.sleep(0.001)
            await kill(await running_pid(pool))
            assert text_of(await answer) == undisturbed
            assert times_of(await answer).runs == 2

    run(work())


def test_workers_go_on_when_their_zygote_is_dead() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=20) as pool:
            (worker,) = pids_of(pool)
            zygote = parent_of(worker)
            async with aclosing(pool.generate(ask(LONG))) as events:
                await anext(events)
                await kill(zygote)
                assert isinstance(await anext(events), Delta)
                assert isinstance(await anext(events), Delta)
                # How a worker ends whose zygote is dead cannot be learned; nobody is blamed.
                await kill(worker, signal.SIGSEGV)
                *_, last = [event async for event in events]
                assert failure_of([last]) == "worker_crashed"
            assert text_of(await collect(pool.generate(ask("next")))) == "next"
            assert (await until(pool, all_idle)).totals.deaths == {"killed": 1}

    run(work())


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_the_kernel_is_told_what_to_end_first() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            (worker,) = pids_of(pool)
            scores = [
                int(Path(f"/proc/{pid}/oom_score_adj").read_text())
                for pid in ("self", parent_of(worker), worker)
            ]
            assert scores == sorted(set(scores))

    run(work())
