"""Several generations as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeAlias, TypeVar

from gateway.errors import SAME_NAMES, failure
from gateway.openai.folds import Progress
from gateway.pool.base import GenerationRecord, Terms, WorkerPool
from shared.messages import Event, Failed, Generate

Order: TypeAlias = tuple[Generate, Terms, GenerationRecord]
"""What `gateway.pool.base.WorkerPool.generate` takes."""
Fed = TypeVar("Fed")
Feed: TypeAlias = Callable[[int, Progress], Fed]
"""Takes an event and the index of its generation."""


def run(
    pool: WorkerPool,
    orders: Sequence[Order],
    feed: Feed[Fed],
    params: Mapping[str, str] = SAME_NAMES,
) -> AsyncGenerator[Fed, None]:
    """Run generations side by side; yields what ``feed`` makes of each event.

    The first that fails or is refused ends all, with an `ApiError` or `PoolRefused`. Closing the
    generator cancels all.

    Args:
        pool: where they run.
        orders: at least one.
        feed: called with each event as it comes.
        params: what an error calls fields of `shared.messages.Generate`.
    """
    if len(orders) == 1:
        return _single(pool, orders[0], feed, params)
    return _merged(pool, orders, feed, params)


async def _single(
    pool: WorkerPool, order: Order, feed: Feed[Fed], params: Mapping[str, str]
) -> AsyncGenerator[Fed, None]:
    async with aclosing(pool.generate(*order)) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise failure(event, params)
            yield feed(0, event)


async def _merged(
    pool: WorkerPool, orders: Sequence[Order], feed: Feed[Fed], params: Mapping[str, str]
) -> AsyncGenerator[Fed, None]:
    # None says that a generation has ended. Bounded, so that what a slow client does not take
    # waits in the pool, where it is merged.
    arrivals: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(len(orders))

    async def pump(index: int, order: Order) -> None:
        try:
            async with aclosing(pool.generate(*order)) as events:
                async for event in events:
                    await arrivals.put((index, event))
            await arrivals.put((index, None))
        except Exception as error:
            await arrivals.put((index, error))

    pumps = [asyncio.create_task(pump(i, order)) for i, order in enumerate(orders)]
    try:
        running = len(pumps)
        while running:
            index, event = await arrivals.get()
            if event is None:
                running -= 1
            elif isinstance(event, Exception):
                raise event
            elif isinstance(event, Failed):
                raise failure(event, params)
            else:
                yield feed(index, event)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
