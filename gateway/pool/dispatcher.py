"""The generations that the pool has taken: which worker runs each, and what becomes of it."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Protocol

from gateway.pool.base import GenerationRecord, Terms, Totals
from gateway.pool.death import Death
from gateway.pool.estimates import Estimates
from gateway.pool.generation import Generation
from gateway.pool.jobs import Start
from gateway.pool.mailbox import Mailbox
from gateway.pool.prefix import Prefix
from gateway.pool.quarantine import Quarantine
from gateway.pool.rescue import end_after
from gateway.pool.scheduler import Scheduler
from gateway.pool.thread_shares import ThreadShares
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


class Dispatcher:
    """Sends generations to workers as the schedule says, and events to whoever consumes them.

    Attributes:
        scheduler: which generation runs where, and what waits.
        totals: what there has been since the start; evictions are counted by the scheduler.
        cached_tokens: worker id -> how many tokens its KV cache holds, as far as is known.
        quarantine: requests that are not to be run, since they kill workers.
        estimates: how long things take.
    """

    def __init__(self, workers: Workers, *, slots: int, max_queue: int, threads: int) -> None:
        """Begin without workers.

        Args:
            workers: the processes.
            slots: how many generations may run at the same time.
            max_queue: the most that may wait.
            threads: for evaluation, shared out among those that run.
        """
        self.estimates = Estimates()
        self.scheduler = Scheduler(max_queue, slots, self.estimates)
        self.totals = Totals()
        self.cached_tokens: dict[int, int] = {}
        self._workers = workers
        self._generations: dict[str, Generation] = {}
        self._threads = ThreadShares(threads)
        self._patience: asyncio.TimerHandle | None = None
        self._idle: list[asyncio.Future[None]] = []
        self.quarantine = Quarantine()
        # Worker id -> what it ran when it began to die, of those whose end has no cause yet.
        self._orphans: dict[int, list[Generation]] = {}

    def submit(self, request: Generate, terms: Terms, record: GenerationRecord) -> Mailbox | None:
        """Take a generation.

        Returns:
            Where its events will come; `abandon` it in the end. None if the backlog is full.
        """
        if not self.scheduler.submit(request):
            return None
        generation = Generation(request, terms, record)
        self._generations[request.request_id] = generation
        generation.expire_with(self._expire)
        self._dispatch()
        return generation.events

    def abandon(self, request_id: str, events: Mailbox) -> None:
        """The consumer is gone: cancel the generation. Harmless after the terminal event."""
        generation = self._generations.get(request_id)
        if generation is None or generation.events is not events or generation.abandoned:
            return
        generation.note_end("cancelled")
        if self.scheduler.withdraw(request_id):
            self._forget(request_id)
        else:
            self._leave(generation)

    async def idle(self) -> None:
        """Return when no generation waits or runs, those included that nobody waits for."""
        if self._generations:
            self._idle.append(asyncio.get_running_loop().create_future())
            await self._idle[-1]

    @property
    def stall_s(self) -> float:
        """Seconds without progress after which a worker will never make any."""
        # What was learned may have been measured when one worker had all the threads.
        return self.estimates.stall_s * self._threads.scarcity

    def expected_wait_s(self) -> float:
        """Seconds that a generation is expected to wait if it is taken now."""
        return self.scheduler.expected_wait_s(time.monotonic())

    def retry_after(self) -> int:
        """Seconds until one of those that wait or run now is expected to be through, 1 to 60."""
        there = len(self.scheduler.waiting) + len(self.scheduler.running)
        return max(1, min(60, math.ceil(self.expected_wait_s() / max(1, there))))

    def add_worker(self, worker_id: int, born: Prefix, born_tokens: int) -> None:
        """Put a new worker into rotation.

        Args:
            worker_id: its number.
            born: the text in its KV cache.
            born_tokens: how many tokens that is.
        """
        self.cached_tokens[worker_id] = born_tokens
        self._threads.add_worker(worker_id)
        self.scheduler.add_worker(worker_id, born)
        self._dispatch()

    def remove_worker(self, worker_id: int) -> None:
        """Take a dying worker out of rotation; `rescue` is to follow."""
        self._orphans[worker_id] = [
            self._generations[request_id]
            for request_id, running_on in self.scheduler.running.items()
            if running_on == worker_id and request_id in self._generations
        ]
        self.scheduler.remove_worker(worker_id)

    def rescue(self, worker_id: int, death: Death) -> None:
        """Save what a dead worker ran, if that can be done."""
        deaths, cause = self.totals.deaths, death.cause.value
        deaths = {**deaths, cause: deaths.get(cause, 0) + 1}
        self.totals = replace(self.totals, deaths=deaths)
        now_s = time.monotonic()
        for generation in self._orphans.pop(worker_id, ()):
            request_id = generation.request.request_id
            if self._generations.get(request_id) is not generation:
                continue  # ended meanwhile
            error = end_after(death, generation, self.quarantine, now_s)
            if error is not None or generation.abandoned:
                self._end_with(generation, *(error or (ErrorCode.WORKER_CRASHED, "")))
            else:
                generation.begin_anew()
                self.scheduler.resubmit(generation.request)
        self.totals = replace(self.totals, quarantined=self.quarantine.total)
        self._dispatch()

    def on_event(self, event: Event) -> None:
        """Pass an event on to whoever consumes its generation."""
        generation = self._generations.get(event.request_id)
        if generation is None:
            return  # ended by us, as in `end_all`
        if isinstance(event, Delta):
            generation.note_delta(event)
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
            generation = self._generations[step.request.request_id]
            generation.note_start(step, now_s)
            generation.expire_with(self._expire)
            started.append(step)
        for worker_id, threads in self._threads.share(
            self.scheduler.running, [step.worker_id for step in started]
        ):
            self._workers.send(worker_id, SetThreads(threads))
        for step in started:
            self._workers.send(step.worker_id, step.request)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if (patience_s := self.scheduler.patience_s) is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(patience_s, self._dispatch)

    def _prefilled(self, generation: Generation, event: Prefilled) -> None:
        generation.note_prefilled(event)
        request = generation.request
        if request.echoes_from is None:  # else it was evaluated token by token
            self.estimates.learn_prefill(event)
        self.totals = replace(
            self.totals,
            prompt_tokens=self.totals.prompt_tokens + event.prompt_tokens,
            cached_tokens=self.totals.cached_tokens + event.cached_tokens,
        )

    def _release(self, generation: Generation, event: Finished | Failed) -> None:
        """A worker has ended a generation, and is free."""
        request_id = generation.request.request_id
        self._forget(request_id)
        generated = None
        generation.note_terminal(event)
        if isinstance(event, Finished):
            if event.finish_reason != "cancelled":
                if generation.request.max_tokens != 0:  # else it could have had none
                    self.estimates.learn_completion(event)
                self.quarantine.note_success(generation.request)
            n_generated = self.totals.completion_tokens + event.completion_tokens
            self.totals = replace(self.totals, completion_tokens=n_generated)
            if generation.prefilled is not None:
                generated = event.ids
                n_tokens = generation.prefilled.prompt_tokens + event.completion_tokens
                self.cached_tokens[self.scheduler.running[request_id]] = n_tokens
        was_refused = isinstance(event, Failed) and generation.prefilled is None
        self.scheduler.finish(request_id, generated, was_refused=was_refused)
        self._dispatch()

    def _end_with(self, generation: Generation, code: ErrorCode, message: str) -> None:
        """End a generation that no worker will end."""
        request_id = generation.request.request_id
        self.scheduler.withdraw(request_id)
        self._forget(request_id)
        if not generation.abandoned:
            generation.fail(code, message)

    def _forget(self, request_id: str) -> None:
        del self._generations[request_id]
        if self._idle and not self._generations:
            for waiting in self._idle:
                if not waiting.done():
                    waiting.set_result(None)
            self._idle.clear()

    def _leave(self, generation: Generation) -> None:
        """Cancel what a worker runs; nobody is told what more comes of it.

        The worker is free only after its terminal event. There is none to tell if it is dying.
        """
        request_id = generation.request.request_id
        generation.abandoned = True
        worker_id = self.scheduler.running.get(request_id)
        if worker_id is not None:
            self._workers.send(worker_id, Cancel(request_id))

    def _expire(self, generation: Generation, code: ErrorCode) -> None:
        if generation.abandoned or generation.request.request_id not in self._generations:
            return
        if code is ErrorCode.QUEUE_TIMEOUT:
            self._end_with(generation, code, "no worker was free in time; try again later")
            return
        message = "the time that this request may take is over"
        if self.scheduler.waits(generation.request.request_id):
            self._end_with(generation, code, message)
        else:
            generation.fail(code, message)
            self._leave(generation)
