"""Several generations as one stream of events."""

import asyncio
from collections.abc import Sequence

import pytest
from gateway.routes.fan_in import Order, run

from gateway.errors import ApiError
from gateway.pool.base import DEFAULT_TERMS, GenerationRecord, PoolRefused
from shared.errors import ErrorCode
from shared.messages import Delta, Event, Generate
from tests.unit.gateway.fakes import ScriptedPool, deltas, failed, finished, prefilled, says

ONE, TWO = Generate("one", ("1",)), Generate("two", ("2",))


def pair(index: int, event: Event) -> tuple[int, Event]:
    return index, event


def orders(*generations: Generate) -> list[Order]:
    return [(generation, DEFAULT_TERMS, GenerationRecord()) for generation in generations]


def collect(pool: ScriptedPool, *generations: Generate) -> list[tuple[int, Event]]:
    async def scenario() -> list[tuple[int, Event]]:
        return [fed async for fed in run(pool, orders(*generations), pair)]

    return asyncio.run(asyncio.wait_for(scenario(), 5))


def test_one_generation_is_passed_on() -> None:
    events = collect(ScriptedPool(says("a", "b")), ONE)
    assert [index for index, _ in events] == [0] * 4


def test_several_interleave_and_keep_their_order() -> None:
    events = collect(ScriptedPool(says("a", "b")), ONE, TWO)
    assert [index for index, _ in events] == [0, 1] * 4
    for index in (0, 1):
        texts = [e.text for i, e in events if i == index and isinstance(e, Delta)]
        assert texts == ["a", "b"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_failure_is_raised_and_ends_the_others(alone: bool) -> None:
    def script(request: Generate) -> Sequence[Event | None]:
        waits = request is TWO
        return [prefilled(request), *([None] if waits else deltas(request, "a")), failed(request)]

    pool = ScriptedPool(script)
    with pytest.raises(ApiError, match="It broke"):
        collect(pool, *([ONE] if alone else [TWO, ONE]))
    assert alone or pool.cancelled == ["two"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_refusal_is_raised_and_ends_the_others(alone: bool) -> None:
    def script(request: Generate) -> Sequence[Event | Exception | None]:
        return [None] if request is TWO else [PoolRefused(ErrorCode.QUEUE_FULL, "Full.", 1)]

    pool = ScriptedPool(script)
    with pytest.raises(PoolRefused):
        collect(pool, *([ONE] if alone else [TWO, ONE]))
    assert pool.cancelled == ([] if alone else ["two"])


@pytest.mark.parametrize("generations", [(ONE,), (ONE, TWO)])
def test_closing_cancels_all(generations: tuple[Generate, ...]) -> None:
    pool = ScriptedPool(lambda request: [*deltas(request, "a"), None, finished(request)])

    async def scenario() -> None:
        events = run(pool, orders(*generations), pair)
        await events.__anext__()
        await events.aclose()
        assert sorted(pool.cancelled) == sorted(g.request_id for g in generations)

    asyncio.run(asyncio.wait_for(scenario(), 5))
