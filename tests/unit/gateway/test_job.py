"""A job: what waits for its consumer, in order, nothing lost, deltas merged; and its times."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pool.base import Terms
from gateway.pool.job import Job
from shared.messages import Delta, Event, Failed, Finished, Generate, Prefilled

BEGIN = Prefilled("a", 5, 2, 1.0)
END = Finished("a", "stop", 3, 1.0)


def mailbox_of(is_whole: bool = False) -> Job:
    return Job(Generate("a", (1,)), Terms(is_whole))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 5))


@pytest.mark.parametrize("end", [END, Failed("a", "worker_crashed", "It broke.")])
def test_a_whole_answer_comes_when_it_has_ended(end: Event) -> None:
    async def scenario() -> None:
        mailbox = mailbox_of(is_whole=True)
        mailbox.put(BEGIN)
        assert await mailbox.get() is BEGIN, "whoever leaves has used the prompt"
        taking = asyncio.ensure_future(mailbox.get())
        mailbox.put(Delta("a", "lost", 1))
        await asyncio.sleep(0)
        assert not taking.done()
        mailbox.begin_anew()
        again: list[Event] = [Delta("a", "x", 1), Delta("a", "y", 1), end]
        for event in again:
            mailbox.put(event)
        assert [await taking, await mailbox.get()] == [Delta("a", "xy", 2), end]

    run(scenario())


def test_a_consumer_that_waits_gets_what_comes_before_it_wakes_as_one() -> None:
    async def scenario() -> None:
        mailbox = mailbox_of()
        waiting = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        mailbox.put(Delta("a", "x", 1))
        mailbox.put(Delta("a", "y", 1))
        assert await waiting == Delta("a", "xy", 2)

    run(scenario())


@pytest.mark.parametrize("event_first", [True, False])
def test_a_cancelled_get_loses_nothing(event_first: bool) -> None:
    async def scenario() -> None:
        mailbox = mailbox_of()
        waiting = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        if event_first:
            mailbox.put(END)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not event_first:
            mailbox.put(END)
        assert await mailbox.get() is END

    run(scenario())


def test_a_second_consumer_is_refused() -> None:
    async def scenario() -> None:
        mailbox = mailbox_of()
        first = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await mailbox.get()
        mailbox.put(END)
        assert await first is END

    run(scenario())


@given(st.lists(st.text(min_size=1), max_size=30), st.data())
def test_whenever_it_is_read_the_text_and_the_tokens_are_whole(
    texts: list[str], data: st.DataObject
) -> None:
    got: list[Event] = []

    async def scenario() -> None:
        mailbox = mailbox_of()
        waiting = 0
        for text in texts:
            mailbox.put(Delta("a", text, 2))
            waiting = 1
            if data.draw(st.booleans()):
                got.append(await mailbox.get())
                waiting = 0
        mailbox.put(END)
        got.extend([await mailbox.get() for _ in range(waiting + 1)])

    run(scenario())
    *deltas, last = got
    assert last is END
    assert "".join(e.text for e in deltas if isinstance(e, Delta)) == "".join(texts)
    assert sum(e.tokens for e in deltas if isinstance(e, Delta)) == 2 * len(texts)


def test_its_end_tells_of_its_times() -> None:
    async def scenario() -> None:
        job = mailbox_of()
        job.begin(job.submitted_s + 0.5)
        job.note_prefilled(BEGIN)
        job.put_delta(Delta("a", "x", 1))
        job.put_delta(Delta("a", "y", 1))
        job.end(END)
        *_, last = [await job.get() for _ in range(3)]
        assert isinstance(last, Finished) and last.times is not None
        times = last.times
        assert times.queue_s == pytest.approx(0.5)
        assert (times.runs, sum(times.gap_counts)) == (1, 1)
        assert times.first_s is not None and 0 <= times.first_s <= times.total_s

    run(scenario())


def test_a_second_run_does_not_say_again_that_the_prompt_is_evaluated() -> None:
    async def scenario() -> None:
        job = mailbox_of()
        job.begin(0.0)
        job.note_prefilled(BEGIN)
        job.begin_anew()
        job.begin(1.0)
        job.note_prefilled(BEGIN)
        job.end(END)
        first, last = await job.get(), await job.get()
        assert isinstance(first, Prefilled) and replace(first, times=None) == BEGIN
        assert first.times is not None and first.times.runs == 1
        assert isinstance(last, Finished) and last.times is not None and last.times.runs == 2

    run(scenario())
