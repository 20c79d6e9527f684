"""Several generations as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

from gateway.errors import failure
from gateway.openai.folds import Progress
from gateway.pool.base import WorkerPool
from shared.messages import Event, Failed, Generate

Progresses: TypeAlias = AsyncGenerator[tuple[int, Progress], None]


def run(
    pool: WorkerPool, generations: Sequence[Generate], prompt_param: str = "prompt"
) -> Progresses:
    """Run generations side by side; yields each event with the index of its generation.

    The first that fails or is refused ends all, with an `ApiError` or `PoolRefused`. Closing the
    generator cancels all.

    Args:
        pool: where they run.
        generations: at least one.
        prompt_param: what an error calls the field of the request that the prompts come from.
    """
    if len(generations) == 1:
        return _single(pool, generations[0], prompt_param)
    return _merged(pool, generations, prompt_param)


async def _single(pool: WorkerPool, generation: Generate, prompt_param: str) -> Progresses:
    async with aclosing(pool.generate(generation)) as events:
        async for event in events:
            yield 0, _progress(event, prompt_param)


async def _merged(
    pool: WorkerPool, generations: Sequence[Generate], prompt_param: str
) -> Progresses:
    # None says that a generation has ended.
    arrivals: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    async def pump(index: int, generation: Generate) -> None:
        try:
            async with aclosing(pool.generate(generation)) as events:
                async for event in events:
                    arrivals.put_nowait((index, event))
            arrivals.put_nowait((index, None))
        except Exception as error:
            arrivals.put_nowait((index, error))

    pumps = [asyncio.create_task(pump(i, generation)) for i, generation in enumerate(generations)]
    try:
        running = len(pumps)
        while running:
            index, event = await arrivals.get()
            if event is None:
                running -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield index, _progress(event, prompt_param)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def _progress(event: Event, prompt_param: str) -> Progress:
    if isinstance(event, Failed):
        raise failure(event, prompt_param)
    return event
