"""The generations of an answer, side by side."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.answer.pieces import CallBegun, Ended, Piece, Text
from gateway.answer.reader import CallReader, TextReader
from gateway.answer.run import Order, run
from gateway.errors import ApiError
from gateway.pool.base import DEFAULT_TERMS, PoolRefused
from shared.errors import ErrorCode
from shared.messages import Event, Generate
from tests.unit.gateway.fakes import ScriptedPool, deltas, failed, finished, prefilled, says
from worker.prompt.tools import call_text

ONE, TWO = Generate("one", (1,)), Generate("two", (2,))
Arrived = list[tuple[int, Sequence[Piece]]]


def orders(*generations: Generate) -> list[Order]:
    return [Order(generation, DEFAULT_TERMS, TextReader(), {}) for generation in generations]


def collect(pool: ScriptedPool, made: Sequence[Order], at_once: int | None = None) -> Arrived:
    arrived: Arrived = []

    def take(index: int, pieces: Sequence[Piece]) -> bytes:
        arrived.append((index, pieces))
        return b""

    async def scenario() -> None:
        async for _ in run(pool, made, take, at_once):
            pass

    asyncio.run(asyncio.wait_for(scenario(), 5))
    return arrived


def test_several_interleave_and_keep_their_order() -> None:
    arrived = collect(ScriptedPool(says("a", "b")), orders(ONE, TWO))
    assert [index for index, _ in arrived] == [0, 1] * 4
    for index in (0, 1):
        pieces = [piece for i, said in arrived if i == index for piece in said]
        assert [piece.text for piece in pieces if isinstance(piece, Text)] == ["a", "b"]


def test_only_so_many_run_at_once() -> None:
    arrived = collect(ScriptedPool(says("a")), orders(ONE, TWO, ONE), at_once=1)
    assert [index for index, _ in arrived] == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize("alone", [True, False])
def test_a_generation_that_a_stop_string_ends_is_cancelled(alone: bool) -> None:
    pool = ScriptedPool(lambda request: [prefilled(request), *deltas(request, "a", "b"), None])
    made = [Order(each, DEFAULT_TERMS, CallReader("b"), {}) for each in (ONE, TWO)]
    arrived = collect(pool, made[: 1 if alone else 2])
    assert [pieces[-1] for _, pieces in arrived[-1:]] == [Ended("stop", 2)]
    assert sorted(pool.cancelled) == (["one"] if alone else ["one", "two"])


def test_a_stop_string_that_is_in_the_form_of_calls_ends_nothing() -> None:
    pool = ScriptedPool(says(call_text("f", {})))
    arrived = collect(pool, [Order(ONE, DEFAULT_TERMS, CallReader(["\n", "name"]), {})])
    assert any(isinstance(piece, CallBegun) for _, pieces in arrived for piece in pieces)
    assert isinstance(arrived[-1][1][-1], Ended) and arrived[-1][1][-1].reason == "tool_calls"


@pytest.mark.parametrize("wrong", [failed(ONE), PoolRefused(ErrorCode.QUEUE_FULL, "Full.", 1)])
@pytest.mark.parametrize("alone", [True, False])
def test_what_goes_wrong_is_raised_and_ends_the_others(
    wrong: Event | PoolRefused, alone: bool
) -> None:
    pool = ScriptedPool(lambda request: [prefilled(request), None if request is TWO else wrong])
    with pytest.raises((ApiError, PoolRefused), match=r"It broke|Full"):
        collect(pool, orders(*([ONE] if alone else [TWO, ONE])))
    assert alone or "two" in pool.cancelled


@pytest.mark.parametrize("generations", [(ONE,), (ONE, TWO)])
def test_closing_cancels_all(generations: tuple[Generate, ...]) -> None:
    pool = ScriptedPool(lambda request: [*deltas(request, "a"), None, finished(request)])

    async def scenario() -> None:
        events = run(pool, orders(*generations), lambda index, pieces: b"x")
        await events.__anext__()
        await events.aclose()
        assert sorted(pool.cancelled) == sorted(g.request_id for g in generations)

    asyncio.run(asyncio.wait_for(scenario(), 5))
