"""A real pool of echo workers: what each generation gets, whatever happens to it."""

import asyncio
import gc
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from gateway.pool import process
from gateway.pool.base import PoolRefused, Terms
from gateway.pool.process import WorkerProcess
from shared.encoding import decode
from shared.errors import ErrorCode
from shared.messages import Delta, Event, Failed, Finished, Generate, Prefilled
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    check_order,
    collect,
    descriptors,
    failure_of,
    kill,
    pids_of,
    ready,
    run,
    running_pid,
    text_of,
    until,
)

FAST, SLOW = 2.0, 100.0


@pytest.fixture
def worker_events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """All events that any worker has sent, also those that nobody reads any more."""
    seen: list[Event] = []

    def noting(line: bytes) -> Any:
        message = decode(line)
        if isinstance(message, Prefilled | Delta | Finished | Failed):
            seen.append(message)
        return message

    monkeypatch.setattr(process, "decode", noting)
    return seen


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All commands that any worker was sent."""
    seen: list[Any] = []
    original = WorkerProcess.send

    def send(handle: WorkerProcess, command: Any) -> None:
        seen.append(command)
        original(handle, command)

    monkeypatch.setattr(WorkerProcess, "send", send)
    return seen


def events_of(events: list[Event], request: Generate) -> list[Event]:
    return [event for event in events if event.request_id == request.request_id]


def tokens_of(events: list[Event]) -> int:
    return sum(event.tokens for event in events if isinstance(event, Delta))


def test_every_generation_gets_its_own_text_and_one_terminal_event(
    worker_events: list[Event],
) -> None:
    requests = [ask(f"{i}: ä€😀 " * (i % 5 + 1)) for i in range(40)]

    async def work() -> list[list[Event]]:
        async with ready(max_queue=40) as pool:
            return await asyncio.gather(*(collect(pool.generate(r)) for r in requests))

    for request, events in zip(requests, run(work()), strict=True):
        assert text_of(events).encode() == bytes(request.ids)
        last = events[-1]
        assert isinstance(last, Finished)
        assert last.finish_reason == "stop"
        assert last.completion_tokens == len(request.ids)
        # As the worker sent them, but for deltas that waited behind each other and became one.
        sent = events_of(worker_events, request)
        check_order(sent)
        assert text_of(sent) == text_of(events)
        assert tokens_of(sent) == tokens_of(events) == last.completion_tokens
        first = events[0]
        assert isinstance(first, Prefilled)
        assert (sent[0], sent[-1]) == (replace(first, times=None), replace(last, times=None))


def test_one_that_fails_has_only_its_failure() -> None:
    async def work() -> None:
        async with ready() as pool:
            events = await collect(pool.generate(ask("x" * 9000)))
            assert failure_of(events) == "engine_error"
            assert len(events) == 1
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())


def test_closing_a_running_generation_frees_its_worker(worker_events: list[Event]) -> None:
    request = ask(LONG)

    async def work() -> None:
        async with ready(workers=1, delay_ms=FAST) as pool:
            async with aclosing(pool.generate(request)) as events:
                assert isinstance(await anext(events), Prefilled)
                assert isinstance(await anext(events), Delta)
                assert pool.status().running == 1
            status = await until(pool, all_idle)
            assert status.workers[0].restarts == 0
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())
    events = events_of(worker_events, request)
    check_order(events)
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.finish_reason == "cancelled"


def test_closing_one_that_has_not_begun_to_answer(worker_events: list[Event]) -> None:
    request = ask("x" * 4000)  # eight chunks of prefill, each of which takes its time

    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            task = asyncio.create_task(collect(pool.generate(request)))
            await running_pid(pool)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(pool, all_idle)

    run(work())
    (only,) = events_of(worker_events, request)
    assert isinstance(only, Finished)
    assert only.finish_reason == "cancelled"


def test_closing_one_that_waits_takes_it_out_of_the_backlog(
    sent: list[Any], worker_events: list[Event]
) -> None:
    waiting, after = ask("waits"), ask("after")

    async def work() -> None:
        async with ready(workers=1, delay_ms=FAST) as pool:
            async with aclosing(pool.generate(ask(LONG))) as running:
                await anext(running)
                task = asyncio.create_task(collect(pool.generate(waiting)))
                last = asyncio.create_task(collect(pool.generate(after)))
                await until(pool, lambda status: status.waiting == 2)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert pool.status().waiting == 1
            assert text_of(await last) == "after"
            await until(pool, all_idle)

    run(work())
    assert waiting not in sent and after in sent
    assert events_of(worker_events, waiting) == []


def test_one_too_many_is_refused_before_any_worker_hears_of_it(sent: list[Any]) -> None:
    refused = ask("refused")

    async def work() -> None:
        async with ready(workers=2, max_queue=1, delay_ms=FAST) as pool:
            running = [pool.generate(ask(LONG)) for _ in range(2)]
            for generation in running:
                await anext(generation)
            waiting = asyncio.create_task(collect(pool.generate(ask("waits"))))
            await until(pool, lambda status: status.waiting == 1)
            n_sent = len(sent)
            with pytest.raises(PoolRefused) as refusal:
                await anext(pool.generate(refused))
            assert refusal.value.code == ErrorCode.QUEUE_FULL
            assert refusal.value.retry_after >= 1
            assert len(sent) == n_sent
            assert pool.status().waiting == 1
            await running[0].aclose()
            assert text_of(await waiting) == "waits"
            await running[1].aclose()
            await until(pool, all_idle)

    run(work())
    assert refused not in sent


def test_one_whose_text_was_held_back_runs_again_with_one_prefilled() -> None:
    prompt = "ab" * 20

    async def work() -> list[Event]:
        async with ready(delay_ms=20) as pool:
            got = []
            async with aclosing(pool.generate(ask(prompt, stop=(prompt + "!",)))) as events:
                got.append(await anext(events))
                await kill(await running_pid(pool))
                got += [event async for event in events]
            return got

    events = run(work())
    check_order(events)
    assert text_of(events) == prompt


def test_a_worker_killed_after_some_text_fails_its_generation() -> None:
    async def work() -> None:
        async with ready(delay_ms=FAST) as pool:
            got = []
            async with aclosing(pool.generate(ask(LONG))) as events:
                got += [await anext(events), await anext(events)]
                await kill(await running_pid(pool))
                got += [event async for event in events]
            check_order(got)
            assert failure_of(got) == "worker_crashed"
            status = await until(pool, all_idle)
            assert sorted(worker.restarts for worker in status.workers) == [0, 1]
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())


def test_a_cancelled_one_whose_worker_dies_leaves_nothing() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=500) as pool:
            task = asyncio.create_task(collect(pool.generate(ask(LONG))))
            victim = await running_pid(pool)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await kill(victim)
            status = await until(pool, lambda status: status.workers[0].restarts == 1)
            status = await until(pool, all_idle)
            assert status.waiting == 0

    run(work())


def test_who_leaves_before_a_whole_answer_has_heard_what_its_prompt_costs() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=SLOW) as pool:
            async with aclosing(pool.generate(ask("hello"), Terms(is_whole=True))) as events:
                first = await anext(events)
                assert isinstance(first, Prefilled) and first.prompt_tokens == len("hello")
                assert pool.status().running == 1
            await until(pool, all_idle)

    run(work())


def test_close_ends_what_runs_and_what_waits() -> None:
    async def work() -> None:
        async with ready(workers=2, delay_ms=FAST) as pool:
            begun = [pool.generate(ask(LONG)) for _ in range(2)]
            got: list[list[Event]] = [[await anext(events)] for events in begun]
            waiting = asyncio.create_task(collect(pool.generate(ask("waits"))))
            await until(pool, lambda status: status.waiting == 1)
            pids = pids_of(pool)
            assert len(pids) == 2
            await pool.close()
            for events, so_far in zip(begun, got, strict=True):
                so_far += [event async for event in events]
                check_order(so_far)
                assert failure_of(so_far) == "shutting_down"
            assert [failure_of(await waiting), len(await waiting)] == ["shutting_down", 1]
            assert pool.status().state == "closing"
            with pytest.raises(PoolRefused) as refusal:
                await anext(pool.generate(ask("late")))
            assert refusal.value.code == ErrorCode.SHUTTING_DOWN

    run(work())


def test_two_hundred_cancelled_generations_leave_nothing() -> None:
    async def work() -> None:
        async with ready(delay_ms=1) as pool:
            before, tasks = descriptors(), len(asyncio.all_tasks())
            pids = pids_of(pool)
            for turn in range(200):
                events = pool.generate(ask(LONG))
                if turn % 2:
                    await anext(events)
                else:
                    first = asyncio.ensure_future(anext(events))
                    await asyncio.sleep(0)
                    first.cancel()
                    await asyncio.gather(first, return_exceptions=True)
                await events.aclose()
            status = await until(pool, all_idle)
            assert descriptors() == before
            assert len(asyncio.all_tasks()) <= tasks
            assert pids_of(pool) == pids
            assert [worker.restarts for worker in status.workers] == [0, 0]
            assert text_of(await collect(pool.generate(ask("next")))) == "next"

    run(work())


def test_pools_leave_no_descriptors() -> None:
    async def work() -> None:
        async with ready() as pool:
            await collect(pool.generate(ask("hello")))

    run(work())
    gc.collect()
    before = descriptors()
    run(work())
    gc.collect()
    assert descriptors() == before


def test_conversations_come_back_to_the_worker_that_knows_them() -> None:
    async def work() -> None:
        async with ready() as pool:
            pids = pids_of(pool)
            texts = {"A": "A says something", "B": "B has another topic"}
            for turn in range(4):
                for name, prompt in texts.items():
                    events = await collect(pool.generate(ask(prompt)))
                    prefilled = events[0]
                    assert isinstance(prefilled, Prefilled)
                    if turn:
                        # All that was said before, but for what is new in this turn.
                        assert prefilled.cached_tokens == len(prompt) - len(f" {turn}{name}")
                    else:
                        assert prefilled.cached_tokens == 0
                    texts[name] = f"{prompt}{text_of(events)} {turn + 1}{name}"
                # The next turn in the other order, so that taking turns does not do.
                texts = dict(reversed(texts.items()))
            assert pids_of(pool) == pids

    run(work())
