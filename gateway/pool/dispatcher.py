"""The generations that the pool has taken: which worker runs each, and what becomes of it."""

import asyncio
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from gateway.pool.base import Totals
from gateway.pool.estimates import Estimates
from gateway.pool.jobs import Renew, Start
from gateway.pool.mailbox import Mailbox
from gateway.pool.prefix import Prefix
from gateway.pool.scheduler import Scheduler
from shared.errors import ErrorCode
from shared.messages import (
    Cancel,
    Command,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    Prefilled,
    SetThreads,
)


class Workers(Protocol):
    """The processes, as the dispatcher needs them; it names only those that are ready."""

    def send(self, worker_id: int, command: Command) -> None:
        """Put a command on a worker's queue."""

    def renew(self, worker_id: int) -> None:
        """Replace the process of a worker that runs nothing."""

    def on_finished(self, start: Start, chars_per_token: float) -> None:
        """A generation has ended whose prompt was evaluated."""


@dataclass(slots=True, eq=False)
class _Generation:
    """A generation that the pool has taken and not ended."""

    request: Generate
    events: Mailbox = field(default_factory=Mailbox)
    text: list[str] = field(default_factory=list)
    prefilled: Prefilled | None = None
    abandoned: bool = False
    crashes: int = 0
    start: Start | None = None
    started_s: float = 0.0


class Dispatcher:
    """Sends generations to workers as the schedule says, and events to whoever consumes them.

    Attributes:
        scheduler: which generation runs where, and what waits.
        totals: what there has been since the start; evictions are counted by the scheduler.
        cached_tokens: worker id -> how many tokens its KV cache holds, as far as is known.
    """

    def __init__(self, workers: Workers, *, slots: int, max_queue: int, threads: int) -> None:
        """Begin without workers.

        Args:
            workers: the processes.
            slots: how many generations may run at the same time.
            max_queue: the most that may wait.
            threads: for evaluation, shared out among those that run.
        """
        self._estimates = Estimates()
        self.scheduler = Scheduler(max_queue, slots, self._estimates)
        self.totals = Totals()
        self.cached_tokens: dict[int, int] = {}
        self._workers = workers
        self._generations: dict[str, _Generation] = {}
        self._threads = self._share = threads
        self._threads_of: dict[int, int] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._mean_duration_s = 1.0

    def submit(self, request: Generate) -> Mailbox | None:
        """Take a generation.

        Returns:
            Where its events will come; `abandon` it in the end. None if the backlog is full.
        """
        if not self.scheduler.submit(request):
            return None
        generation = _Generation(request)
        self._generations[request.request_id] = generation
        self._dispatch()
        return generation.events

    def abandon(self, request_id: str, events: Mailbox) -> None:
        """The consumer is gone: cancel the generation. Harmless after the terminal event."""
        generation = self._generations.get(request_id)
        if generation is None or generation.events is not events:
            return
        if self.scheduler.withdraw(request_id):
            del self._generations[request_id]
            return
        # The worker is free only after its terminal event; until then nobody reads the others.
        generation.abandoned = True
        self._workers.send(self.scheduler.running[request_id], Cancel(request_id))

    def retry_after(self) -> int:
        """Seconds until the backlog has moved by one place, as far as the past can tell."""
        return min(60, math.ceil(self._mean_duration_s / self.scheduler.slots))

    def add_worker(
        self, worker_id: int, born: Prefix, born_tokens: int, start_ms: float | None
    ) -> None:
        """Put a new worker into rotation.

        Args:
            worker_id: its number.
            born: the text in its KV cache.
            born_tokens: how many tokens that is.
            start_ms: how long a fork took, in milliseconds; None if the model was loaded first.
        """
        if start_ms is not None:
            self._estimates.learn_start(start_ms)
        self.cached_tokens[worker_id] = born_tokens
        self._threads_of[worker_id] = self._threads
        self.scheduler.add_worker(worker_id, born)
        self._dispatch()

    def remove_worker(self, worker_id: int) -> None:
        """Take a dead worker out of rotation, and save what it ran if that can be done."""
        orphans = [
            self._generations[request_id]
            for request_id, running_on in self.scheduler.running.items()
            if running_on == worker_id and request_id in self._generations
        ]
        self.scheduler.remove_worker(worker_id)
        for generation in orphans:
            self._rescue(generation)
        self._dispatch()

    def on_event(self, event: Event) -> None:
        """Pass an event on to whoever consumes its generation."""
        generation = self._generations.get(event.request_id)
        if generation is None:
            return  # ended by us, as in `end_all`
        if isinstance(event, Delta):
            generation.text.append(event.text)
        elif isinstance(event, Finished | Failed):
            self._release(generation, event)
        elif generation.prefilled is not None:
            return  # the second run of a generation whose first worker died
        else:
            self._prefilled(generation, event)
        if not generation.abandoned:
            generation.events.put(event)

    def end_waiting(self, code: ErrorCode, message: str) -> None:
        """End all that waits."""
        for waiting in list(self.scheduler.waiting):
            self._end_with(self._generations[waiting.request.request_id], code, message)

    def end_all(self, code: ErrorCode, message: str) -> None:
        """End all that waits or runs, for its consumers; to be called when the pool closes."""
        if self._patience is not None:
            self._patience.cancel()
        for generation in list(self._generations.values()):
            self._end_with(generation, code, message)

    def _dispatch(self) -> None:
        """Start what can be started, and share the threads out among all that run."""
        now_s = time.monotonic()
        started: list[Start] = []
        while (step := self.scheduler.next(now_s)) is not None:
            if isinstance(step, Renew):
                self._workers.renew(step.worker_id)
            else:
                generation = self._generations[step.request.request_id]
                generation.start, generation.started_s = step, now_s
                started.append(step)
        self._share_threads([step.worker_id for step in started])
        for step in started:
            self._workers.send(step.worker_id, step.request)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if (patience_s := self.scheduler.patience_s) is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(patience_s, self._dispatch)

    def _share_threads(self, started: Iterable[int]) -> None:
        """Have each worker that runs use its share; only those that started may not know it."""
        running = self.scheduler.running
        threads = max(1, self._threads // max(1, len(running)))
        if threads != self._share:
            self._share, started = threads, running.values()
        for worker_id in started:
            if self._threads_of[worker_id] != threads:
                self._threads_of[worker_id] = threads
                self._workers.send(worker_id, SetThreads(threads))

    def _prefilled(self, generation: _Generation, event: Prefilled) -> None:
        generation.prefilled = event
        self._estimates.learn_prefill(sum(map(len, generation.request.prompt)), event)
        self.totals = replace(
            self.totals,
            prompt_tokens=self.totals.prompt_tokens + event.prompt_tokens,
            cached_tokens=self.totals.cached_tokens + event.cached_tokens,
        )

    def _release(self, generation: _Generation, event: Finished | Failed) -> None:
        """A worker has ended a generation, and is free."""
        request_id = generation.request.request_id
        duration_s = time.monotonic() - generation.started_s
        self._mean_duration_s += 0.1 * (duration_s - self._mean_duration_s)
        del self._generations[request_id]
        generated = None
        if isinstance(event, Finished):
            if event.finish_reason != "cancelled":
                self._estimates.learn_completion(event)
            n_generated = self.totals.completion_tokens + event.completion_tokens
            self.totals = replace(self.totals, completion_tokens=n_generated)
            if generation.prefilled is not None:
                generated = "".join(generation.text)
                n_tokens = generation.prefilled.prompt_tokens + event.completion_tokens
                self.cached_tokens[self.scheduler.running[request_id]] = n_tokens
        was_refused = isinstance(event, Failed) and generation.prefilled is None
        self.scheduler.finish(request_id, generated, was_refused=was_refused)
        self._dispatch()
        if generation.prefilled is not None and generation.start is not None:
            self._workers.on_finished(generation.start, self._estimates.chars_per_token)

    def _rescue(self, generation: _Generation) -> None:
        generation.crashes += 1
        if generation.abandoned:
            del self._generations[generation.request.request_id]
        elif generation.crashes == 1 and not generation.text:
            self.scheduler.resubmit(generation.request)
        else:
            self._end_with(
                generation,
                ErrorCode.WORKER_CRASHED,
                "the worker process died while it ran this request",
            )

    def _end_with(self, generation: _Generation, code: ErrorCode, message: str) -> None:
        """End a generation that no worker will end."""
        request_id = generation.request.request_id
        self.scheduler.withdraw(request_id)
        del self._generations[request_id]
        generation.events.put(Failed(request_id, code.value, message))
