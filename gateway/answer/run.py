"""Runs the generations of an answer side by side, and counts their tokens."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.answer.pieces import Begun, Ended, Piece, Usage
from gateway.answer.reader import Reader
from gateway.errors import failure
from gateway.observe.record import GenerationRecord
from gateway.pool.base import Terms, WorkerPool
from shared.messages import Delta, Event, Failed, Generate

Take: TypeAlias = Callable[[int, Sequence[Piece]], bytes]
"""Takes pieces and the index of their generation; returns what to send because of them."""


@dataclass(slots=True)
class Order:
    """A generation that is to run."""

    request: Generate
    terms: Terms
    reader: Reader
    params: Mapping[str, str]  #: what fields of `Generate` are called in the request
    record: GenerationRecord = field(default_factory=GenerationRecord)
    note: Callable[[str], None] | None = None  #: takes the text as it comes, for the log

    def read(self, event: Event) -> Sequence[Piece]:
        """The pieces that an event says.

        Raises:
            ApiError: the generation has failed.
        """
        if isinstance(event, Delta):  # for each token, so without a call that can be spared
            self.record.completion_tokens += event.tokens
            if self.note is not None:
                self.note(event.text)
            return self.reader.read(event)
        self.record.note(event)
        if isinstance(event, Failed):
            raise failure(event, self.params)
        return self.reader.read(event)


class Tally:
    """Counts tokens; the prompt that several choices share is counted once."""

    def __init__(self, candidates: int) -> None:
        self._candidates = candidates
        self._prompt = self._cached = self._completion = 0

    def count(self, index: int, piece: Piece) -> None:
        if isinstance(piece, Ended):
            self._completion += piece.completion_tokens
        elif isinstance(piece, Begun) and index % self._candidates == 0:
            self._prompt += piece.prompt_tokens
            self._cached += piece.cached_tokens

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt, self._cached, self._completion)


def run(
    pool: WorkerPool, orders: Sequence[Order], take: Take, at_once: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Run generations side by side; yields what ``take`` makes of their pieces.

    The first that fails or is refused ends all, with an `ApiError` or `PoolRefused`. Closing the
    generator cancels all.

    Args:
        pool: where they run.
        orders: at least one.
        take: called with pieces as they come.
        at_once: how many may run at the same time; None for all.
    """
    if len(orders) == 1:
        return _single(pool, orders[0], take)
    return _merged(pool, orders, take, min(at_once or len(orders), len(orders)))


async def _single(pool: WorkerPool, order: Order, take: Take) -> AsyncGenerator[bytes, None]:
    async with aclosing(pool.generate(order.request, order.terms)) as events:
        async for event in events:
            yield take(0, order.read(event))
            if order.reader.is_over:
                return


async def _merged(
    pool: WorkerPool, orders: Sequence[Order], take: Take, at_once: int
) -> AsyncGenerator[bytes, None]:
    # None says that one of the pumps has ended. Bounded, so that what a slow client does not take
    # waits in the pool, where it is merged.
    arrivals: asyncio.Queue[tuple[int, Sequence[Piece]] | Exception | None]
    arrivals = asyncio.Queue(at_once)
    waiting = iter(enumerate(orders))

    async def pump() -> None:
        try:
            for index, order in waiting:
                events = pool.generate(order.request, order.terms)
                async with aclosing(events):
                    async for event in events:
                        await arrivals.put((index, order.read(event)))
                        if order.reader.is_over:
                            break
            await arrivals.put(None)
        except Exception as error:
            await arrivals.put(error)

    pumps = [asyncio.create_task(pump()) for _ in range(at_once)]
    try:
        running = len(pumps)
        while running:
            arrival = await arrivals.get()
            if arrival is None:
                running -= 1
            elif isinstance(arrival, Exception):
                raise arrival
            else:
                yield take(*arrival)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
