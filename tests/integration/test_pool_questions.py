"""Questions about tokens to real workers, which run something, die, or do not answer."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from gateway.pool import questions
from gateway.pool.base import PoolRefused, Question
from gateway.pool.local import LocalPool
from gateway.pool.questions import MOST_BYTES
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Detokenize, Tokenize
from tests.integration import targets
from tests.integration.pools import (
    all_idle,
    ask,
    collect,
    kill,
    pids_of,
    ready,
    run,
    started,
    text_of,
    until,
)

HELLO = "Hé"
IDS = (72, 195, 169)
WORK = "x" * 400
_numbers = iter(range(1_000_000))


def tokens_of(text: str) -> Tokenize:
    return Tokenize(f"question-{next(_numbers)}", (text,))


async def refused(pool: LocalPool, question: Question) -> ErrorCode:
    with pytest.raises(PoolRefused) as error:
        await pool.ask(question)
    return error.value.code


@asynccontextmanager
async def busy(pool: LocalPool, n: int) -> AsyncIterator[None]:
    """Keep workers generating."""
    async with AsyncExitStack() as stack:
        for i in range(n):
            # Each begins otherwise, so that none waits for another's cache.
            events = await stack.enter_async_context(aclosing(pool.generate(ask(f"{i}{WORK}"))))
            await events.__anext__()
        yield
    await until(pool, all_idle)


def holder(pool: LocalPool) -> int:
    """The process that has the one question."""
    (asked,) = pool._questions._asked.values()
    (pid,) = (w.pid for w in pool.status().workers if w.worker_id == asked.worker_id)
    assert pid is not None
    return pid


def test_questions_are_answered_whatever_runs() -> None:
    async def work() -> None:
        async with ready(workers=2, delay_ms=20) as pool:
            for n in (0, 1, 2):
                async with busy(pool, n):
                    answer = await pool.ask(tokens_of(HELLO))
                    assert (answer.ids, answer.texts, answer.error) == (IDS, (), "")
                    answer = await pool.ask(replace(tokens_of(HELLO), wants_texts=True))
                    assert answer.texts == ("H", "\ufffd", "\ufffd")
                    back = await pool.ask(Detokenize(f"back-{n}", (*IDS, 256)))
                    assert (back.ids, back.text) == ((*IDS, 256), f"{HELLO}<end>")
                    assert pool.status().running == n, "nothing was waited for"

    run(work())


def test_many_at_once_are_all_answered() -> None:
    async def work() -> None:
        async with ready(workers=2, parked=1, max_queue=98, delay_ms=5) as pool, busy(pool, 1):
            texts = [f"text {i} " * (i * 10) for i in range(100)]
            answers = await asyncio.gather(*(pool.ask(tokens_of(text)) for text in texts))
            assert [bytes(answer.ids).decode() for answer in answers] == texts
            totals = pool.status().totals
            assert (totals.prompt_tokens, totals.deaths) == (len(WORK) + 1, {})

    run(work())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_death_of_the_worker_that_was_asked_is_not_noticed(workers: int) -> None:
    async def work() -> None:
        async with ready(workers=workers, delay_ms=20) as pool, busy(pool, workers):
            pids = pids_of(pool)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            asking = asyncio.ensure_future(pool.ask(tokens_of(HELLO)))
            await asyncio.sleep(0)
            victim = holder(pool)
            await kill(victim)
            for pid in pids:
                if pid != victim:
                    os.kill(pid, signal.SIGCONT)
            assert (await asking).ids == IDS

    run(work())


def test_a_question_that_two_workers_have_died_of_fails() -> None:
    async def work() -> None:
        # These answer no questions.
        async with ready(target=targets.obeys, workers=3) as pool:
            asking = asyncio.ensure_future(refused(pool, tokens_of(HELLO)))
            await asyncio.sleep(0)
            first = holder(pool)
            await kill(first)
            await until(pool, lambda _: holder(pool) != first)
            await kill(holder(pool))
            assert await asking is ErrorCode.WORKER_CRASHED
            await until(pool, all_idle)
            assert text_of(await collect(pool.generate(ask("other")))) == "other"
            assert pool.status().totals.quarantined == 0

    run(work())


def test_a_worker_that_stands_still_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATIENCE_S", 0.3)

    async def work() -> None:
        async with ready() as pool:
            stopped = pids_of(pool)[0]
            os.kill(stopped, signal.SIGSTOP)
            assert (await pool.ask(tokens_of(HELLO))).ids == IDS
            os.kill(stopped, signal.SIGCONT)
            await until(pool, lambda _: not pool._questions._unanswered[0])

    run(work())


def test_no_question_holds_the_event_loop_up() -> None:
    async def work() -> None:
        async with ready(max_queue=50) as pool:
            pids = pids_of(pool)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            text = "x" * (MOST_BYTES // 4)
            # More than the queues of both have room for.
            asking = [asyncio.ensure_future(pool.ask(tokens_of(text))) for _ in range(24)]
            for _ in range(3):
                await asyncio.sleep(0)
            for each in asking[7:]:
                each.cancel()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for each in asking[:7]:
                assert len((await each).ids) == len(text)
            too_long = tokens_of("x" * MOST_BYTES)
            assert await refused(pool, too_long) is ErrorCode.BODY_TOO_LARGE

    run(work())


def test_questions_are_refused_as_generations_are() -> None:
    async def loading() -> None:
        pool = LocalPool(WorkerConfig("echo"), workers=1, max_queue=1, target=targets.obeys)
        assert await refused(pool, tokens_of("a")) is ErrorCode.MODEL_LOADING
        await pool.close()
        assert await refused(pool, tokens_of("a")) is ErrorCode.SHUTTING_DOWN

    async def failed() -> None:
        async with started(target=targets.raises_at_once, workers=1) as pool:
            assert await refused(pool, tokens_of("a")) is ErrorCode.MODEL_UNAVAILABLE

    async def full() -> None:
        async with ready(target=targets.obeys, workers=1, max_queue=1) as pool:
            asking = [asyncio.ensure_future(refused(pool, tokens_of("a"))) for _ in range(2)]
            await asyncio.sleep(0)
            assert await refused(pool, tokens_of("a")) is ErrorCode.QUEUE_FULL
            pool.stop_accepting()
            assert await refused(pool, tokens_of("a")) is ErrorCode.SHUTTING_DOWN
            await pool.close()
            assert [await each for each in asking] == [ErrorCode.SHUTTING_DOWN] * 2

    for work in (loading, failed, full):
        run(work())
