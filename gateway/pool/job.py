"""One generation from admission to its terminal event: request, terms, times, mailbox, state."""

import asyncio
import time
from bisect import bisect_left
from dataclasses import replace
from typing import Literal

from gateway.pool.base import Terms
from gateway.pool.prefix import Entry, Prefix, Slot
from shared.errors import ErrorCode
from shared.messages import Delta, Event, Failed, Finished, Generate, Prefilled
from shared.times import TEXT_GAP_BOUNDS_S, Times

_TIME_IS_OVER = "the time that this request may take is over"
_NO_WORKER_IN_TIME = "no worker was free in time; try again later"


class Job:
    """A generation that the pool has taken.

    Its mailbox holds events in the order they came. Deltas that wait behind each other become one,
    so a consumer that is slower than its worker holds it up by nothing, and what waits is at most
    ``Prefilled``, one `Delta` and a terminal event. Of a whole answer text is held back until the
    end. Both sides run on one event loop, and there is
    exactly one consumer.
    """

    def __init__(self, request: Generate, terms: Terms) -> None:
        self.request = request
        self.terms = terms
        self.prompt = Prefix(request.ids)
        #: ``dying``: its worker has died, and what becomes of the job is not decided yet
        self.state: Literal["waiting", "running", "dying", "ended"] = "waiting"
        #: nobody waits for its events any more; its slot is free after the terminal event
        self.is_abandoned = False
        self.prefilled: Prefilled | None = None
        #: ends its waiting, or all of it, when its time is over
        self.timer: asyncio.TimerHandle | None = None
        # The schedule's:
        #: where it runs, or ran last
        self.slot: Slot | None = None
        #: how long it is expected to take, in milliseconds
        self.expected_ms = 0.0
        #: tokens of the prompt that its worker had cached, or that had been saved
        self.shared = 0
        #: what its worker may read of the prefix cache until the prompt is evaluated
        self.saved: Entry | None = None
        #: since when it could have started, but waits for a slot that suits it
        self.passed_since_s: float | None = None
        #: the job that waits for this one's slot
        self.awaited_by: Job | None = None
        # The faults':
        #: no other may run in its worker, since one that ran it beside others has died
        self.is_alone = False
        #: workers that somebody has ended while they ran it
        self.kills = 0
        #: workers that have died while they ran it, perhaps by its doing
        self.crashes = 0
        # Times, by `time.monotonic`:
        self.submitted_s = time.monotonic()
        self.started_s: float | None = None
        self._first_s: float | None = None
        self._last_text_s: float | None = None
        self._runs = 0
        self._gap_counts = [0] * (len(TEXT_GAP_BOUNDS_S) + 1)
        self._gaps_s = 0.0
        # Never more than three: a list of them is smaller than a deque.
        self._events: list[Event] = []
        self._is_held_back = terms.is_whole
        self._arrival: asyncio.Future[None] | None = None
        # Asked for once: before Python 3.12 asyncio makes a system call to answer.
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def has_emitted(self) -> bool:
        """Whether its consumer may have seen a part of its text."""
        return self._last_text_s is not None and not self.terms.is_whole

    def begin(self, now_s: float) -> None:
        """It starts to run in `slot`."""
        self.state, self.started_s = "running", now_s
        self._runs += 1

    def begin_anew(self) -> None:
        """It is to run again; what its consumer has not seen is forgotten."""
        self.state, self.slot, self.is_alone = "waiting", None, self.crashes > 0
        self.passed_since_s = self.awaited_by = None
        if self.terms.is_whole:
            self._events[:] = [each for each in self._events if type(each) is Prefilled]
            self._last_text_s = None

    def command(self) -> Generate:
        """What its worker is to do."""
        assert self.slot is not None, "it runs"
        saved = None if self.saved is None else self.saved.part_of(self.prompt)
        return replace(self.request, slot=self.slot.index, saved=saved)

    def note_prefilled(self, event: Prefilled) -> None:
        """Its prompt has been evaluated; a second run does not say so again."""
        if self.prefilled is None:
            self.prefilled = event
            self._first_s = time.monotonic()
            # Its consumer may leave before the end, which has the final ones.
            self.put(replace(event, times=self.times()))

    def put_delta(self, event: Delta) -> None:
        """Take a piece of text; the one thing that is done for each token."""
        now_s = time.monotonic()
        if self._last_text_s is not None:
            gap_s = now_s - self._last_text_s
            self._gap_counts[bisect_left(TEXT_GAP_BOUNDS_S, gap_s)] += 1
            self._gaps_s += gap_s
        self._last_text_s = now_s
        if not self.is_abandoned:
            self.put(event)

    def end(self, event: Finished | Failed) -> None:
        """It has ended; the event gets its times."""
        self.state = "ended"
        if self.timer is not None:
            self.timer.cancel()
        if not self.is_abandoned:
            self.put(replace(event, times=self.times()))

    def fail(self, code: ErrorCode, message: str) -> None:
        self.end(Failed(self.request.request_id, code.value, message))

    def due(self) -> tuple[float, ErrorCode, str] | None:
        """When its time is over, to wait or in all, by `time.monotonic`; with what it fails."""
        terms, ends = self.terms, []
        if terms.deadline_s is not None:
            ends.append((terms.deadline_s, ErrorCode.REQUEST_TIMEOUT, _TIME_IS_OVER))
        if self.started_s is None and terms.queue_timeout_s is not None:
            end_s = self.submitted_s + terms.queue_timeout_s
            ends.append((end_s, ErrorCode.QUEUE_TIMEOUT, _NO_WORKER_IN_TIME))
        return min(ends, default=None)

    def remaining_ms(self, now_s: float) -> float:
        """How much longer it is expected to take, while it runs."""
        assert self.started_s is not None, "it runs"
        ran_ms = (now_s - self.started_s) * 1000
        # One that has taken longer than expected may take longer still.
        return max(self.expected_ms - ran_ms, ran_ms / 2)

    def times(self) -> Times:
        began_s, slot = self.submitted_s, self.slot
        return Times(
            queue_s=None if self.started_s is None else self.started_s - began_s,
            first_s=None if self._first_s is None else self._first_s - began_s,
            total_s=time.monotonic() - began_s,
            worker_id=None if slot is None else slot.worker_id,
            runs=self._runs,
            gap_counts=tuple(self._gap_counts),
            gaps_s=self._gaps_s,
        )

    def put(self, event: Event) -> None:
        """Add an event to the mailbox; never blocks."""
        events = self._events
        if events and type(event) is Delta and type(last := events[-1]) is Delta:
            events[-1] = last.followed_by(event)
        else:
            events.append(event)
            if self._is_held_back and type(event) in (Finished, Failed):
                self._is_held_back = False
        arrival = self._arrival
        if arrival is not None and not arrival.done() and self._has_next():
            arrival.set_result(None)

    async def get(self) -> Event:
        """Take the next event; waits until there is one. Cancelling it loses none.

        Raises:
            RuntimeError: somebody else is waiting already.
        """
        events = self._events
        if not self._has_next():
            if self._arrival is not None:
                raise RuntimeError("a job has one consumer, and it is waiting already")
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return events.pop(0)

    def _has_next(self) -> bool:
        """Whether there is an event that its consumer may have now."""
        events = self._events
        return bool(events) and not (self._is_held_back and type(events[0]) is Delta)
