"""A generation that the pool has taken and not ended."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable

from gateway.pool.base import TEXT_GAP_BOUNDS_S, GenerationRecord, Terms
from gateway.pool.jobs import Start
from gateway.pool.mailbox import Mailbox
from shared.errors import ErrorCode
from shared.messages import Delta, Failed, Finished, Generate, Prefilled


class Generation:
    """What was asked for, what has come of it so far, and when its time is over.

    Attributes:
        request: what is to be generated.
        terms: on which it was taken.
        record: what becomes of it, for whoever asked for it.
        events: where its consumer takes its events.
        text: what was generated, by a worker that may have died.
        prefilled: that its prompt has been evaluated.
        abandoned: nobody waits for its events any more.
        kills: how many workers were ended from outside while they ran it.
        crashes: how many have died while they ran it, and perhaps by its doing.
        start: where it was started last.
    """

    def __init__(self, request: Generate, terms: Terms, record: GenerationRecord) -> None:
        """Begin; its time counts from now on."""
        self.request = request
        self.terms = terms
        self.record = record
        self.events = Mailbox(terms.is_whole)
        self.text: list[str] = []
        self.prefilled: Prefilled | None = None
        self.abandoned = False
        self.kills = self.crashes = 0
        self.start: Start | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._last_text_s: float | None = None
        self._submitted_s = record.submitted_s = time.monotonic()

    @property
    def has_emitted(self) -> bool:
        """Whether its consumer may have seen a part of its text."""
        return bool(self.text) and not self.terms.is_whole

    def note_start(self, start: Start, now_s: float) -> None:
        """A worker runs it from now on."""
        self.start = start
        record = self.record
        record.started_s, record.worker_id = now_s, start.worker_id
        record.runs += 1

    def note_prefilled(self, event: Prefilled) -> None:
        """Its prompt has been evaluated."""
        self.prefilled = event
        record = self.record
        record.first_s = time.monotonic()
        record.prompt_tokens, record.cached_tokens = event.prompt_tokens, event.cached_tokens
        record.prefill_ms = event.prefill_ms

    def note_delta(self, event: Delta) -> None:
        """It has more text."""
        self.text.append(event.text)
        record, now_s = self.record, time.monotonic()
        record.completion_tokens += event.tokens
        if self._last_text_s is not None:
            gap_s = now_s - self._last_text_s
            record.gap_counts[bisect_left(TEXT_GAP_BOUNDS_S, gap_s)] += 1
            record.gaps_s += gap_s
        self._last_text_s = now_s

    def note_terminal(self, event: Finished | Failed) -> None:
        """Its worker has ended it."""
        if self.abandoned:
            return
        if isinstance(event, Finished):
            self.record.completion_tokens = event.completion_tokens
            self.record.decode_ms = event.decode_ms
            self.note_end(event.finish_reason)
        else:
            self.note_end(event.code)

    def note_end(self, outcome: str) -> None:
        """It has ended for its consumer; see `GenerationRecord.outcome`."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.record.outcome, self.record.ended_s = outcome, time.monotonic()

    def fail(self, code: ErrorCode, message: str) -> None:
        """End it for its consumer."""
        self.note_end(code.value)
        self.events.put(Failed(self.request.request_id, code.value, message))

    def begin_anew(self) -> None:
        """Forget what came from a worker that has died, where the consumer has not seen it."""
        self._last_text_s = None
        if self.terms.is_whole:
            self.events.clear()
            self.text.clear()
            self.prefilled = None
            self.record.completion_tokens = 0

    def expire_with(self, expire: Callable[["Generation", ErrorCode], None]) -> None:
        """Have ``expire`` called when its time is over, to wait or in all.

        To be called again when it has started: from then on it waits no longer.
        """
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        terms, times = self.terms, []
        if terms.deadline_s is not None:
            times.append((terms.deadline_s, ErrorCode.REQUEST_TIMEOUT))
        if self.record.started_s is None and terms.queue_timeout_s is not None:
            times.append((self._submitted_s + terms.queue_timeout_s, ErrorCode.QUEUE_TIMEOUT))
        if times and not self.record.outcome:
            at_s, code = min(times)
            delay_s = max(0.0, at_s - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(delay_s, expire, self, code)
