"""Runs the generations of an answer: their events side by side, its usage, its deadlines."""

import asyncio
import math
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.answer.pieces import Begun, Ended, Piece, Usage
from gateway.answer.reader import Reader
from gateway.errors import ApiError, failure
from gateway.observe.record import GenerationRecord
from gateway.pool.base import Terms, WorkerPool
from shared.errors import ErrorCode
from shared.messages import Delta, Event, Failed, Generate

Take: TypeAlias = Callable[[int, Sequence[Piece]], bytes]
"""Takes pieces and the index of their generation; returns what to send because of them."""

_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


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
        if type(event) is Delta:  # for each token, so without a call that can be spared
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


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """How long a request may take: what the settings allow, and less if its headers say so."""

    request_timeout_s: float | None = None  #: in all; None for no bound
    deadline_s: float | None = None  #: when that is over, by `time.monotonic`
    queue_timeout_s: float | None = None  #: that each of its generations may wait

    @contextmanager
    def within(self) -> Iterator[None]:
        """End the block at the deadline, wherever it waits.

        Raises:
            ApiError: `REQUEST_TIMEOUT`, the deadline came first.
        """
        if self.deadline_s is None:
            yield
            return
        task, is_over = asyncio.current_task(), False
        assert task is not None, "requests are answered in tasks"

        def end() -> None:
            nonlocal is_over
            is_over = True
            task.cancel()

        left_s = max(0.0, self.deadline_s - time.monotonic())
        timer = asyncio.get_running_loop().call_later(left_s, end)
        try:
            yield
        except asyncio.CancelledError:
            if not is_over:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            message = f"The request took longer than {self.request_timeout_s:g} seconds."
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, message) from None
        finally:
            timer.cancel()


def time_bounds(
    headers: Mapping[str, str], began_s: float, request_timeout_s: float, queue_timeout_s: float
) -> TimeBounds:
    """The bounds of a request: those of the settings, or lower ones that its headers ask for.

    Args:
        headers: of the request.
        began_s: when it began, by `time.monotonic`.
        request_timeout_s: the setting; 0 for no bound.
        queue_timeout_s: likewise.

    Raises:
        ApiError: `INVALID_VALUE`, a header holds something else than seconds.
    """
    in_all_s = _lower(headers, "x-request-timeout", request_timeout_s)
    waiting_s = _lower(headers, "x-queue-timeout", queue_timeout_s)
    return TimeBounds(in_all_s, None if in_all_s is None else began_s + in_all_s, waiting_s)


def _lower(headers: Mapping[str, str], name: str, most_s: float) -> float | None:
    """The lower of a setting, where 0 is no bound, and a header; None for no bound."""
    bound_s = most_s or math.inf
    header = headers.get(name)
    if header is not None:
        seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
        if seconds <= 0.0:
            message = f"The header {name} must be a number of seconds above 0, such as 2.5."
            raise ApiError(ErrorCode.INVALID_VALUE, message, name)
        bound_s = min(bound_s, seconds)
    return None if bound_s == math.inf else bound_s
