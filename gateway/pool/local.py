"""The pool of worker processes on this machine: admission, dispatch, events, close."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from gateway.pool.base import (
    DEFAULT_TERMS,
    NO_LIMITS,
    Limits,
    PoolRefused,
    PoolStatus,
    State,
    Terms,
)
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.faults import KILLS_WORKERS
from gateway.pool.prepare import Preparers
from gateway.pool.watch import Watch
from gateway.pool.zygote import Zygote
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import (
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Prepared,
    Question,
    Shutdown,
)

# How long workers get to end by themselves when the pool closes.
_SHUTDOWN_S = 1.0
_MEMORY_RETRY_S = 5
_MOST_RETRY_S = 60.0


class LocalPool:
    """Worker processes forked from one zygote; see `gateway.pool.base.WorkerPool`."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        workers: int,
        max_queue: int,
        target: Callable[..., None],
        preparer: Callable[..., None],
        preparers: int = 1,
        parked: int = 0,
        warm_prompt: str | None = None,
        preload: Sequence[str] = (),
        limits: Limits = NO_LIMITS,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: what each worker gets; ``config.threads`` is shared out among those that run.
            workers: how many may run at the same time, each with all of its slots.
            max_queue: the most generations that may wait.
            target: body of a worker process, called with ``config``, its inbox and its outbox.
            preparer: the same of a preparer.
            preparers: how many of these there are.
            parked: how many more processes there are, for the conversations in their KV caches.
            warm_prompt: the system message that all workers have in their caches from the start.
            preload: further modules that the zygote imports before it loads the model.
            limits: what is borne with, of workers and of what waits for them.
        """
        self._limits = limits
        self._zygote = Zygote(
            config,
            [*preload, target.__module__],
            warm_prompt=warm_prompt,
            start_timeout_s=limits.start_timeout_s,
        )
        self._dispatcher = Dispatcher(
            self._zygote,
            target,
            workers=workers,
            parked=parked,
            max_queue=max_queue,
            threads=config.threads,
            prefix_cache=config.prefix_cache,
        )
        self._scheduler = self._dispatcher.scheduler
        self._preparers = Preparers(
            self._zygote, preparer, preparers=preparers, most=4 * (max_queue + workers)
        )
        self._keepers = [*self._dispatcher.keepers, *self._preparers.keepers]
        self._watch = Watch(self._dispatcher, self._preparers.keepers, self._zygote, limits)
        self._is_draining = False
        # When the place gets free that was promised last to somebody who was refused.
        self._promised_s = 0.0
        self._closing = asyncio.Event()
        self._closed: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See `gateway.pool.base.WorkerPool.start`."""
        self._zygote.begin()
        self._watch.begin()
        self._preparers.begin()
        self._tasks += [asyncio.create_task(each.keep(self._closing)) for each in self._keepers]
        await self._dispatcher.is_settled.wait()

    async def settled(self) -> PoolStatus:
        """Wait until the first worker is ready, or none can be, or the pool is closed."""
        await self._dispatcher.is_settled.wait()
        return self.status()

    def admit(self, n: int = 1) -> ModelInfo:
        """See `gateway.pool.base.WorkerPool.admit`."""
        model = self._check_open()
        if self._watch.is_short:
            message = "The server is short of memory; try again later."
            raise PoolRefused(ErrorCode.INSUFFICIENT_MEMORY, message, _MEMORY_RETRY_S)
        most_s = self._limits.max_queue_seconds
        if most_s and (wait_s := self._scheduler.expected_wait_s(time.monotonic())) > most_s:
            message = (
                f"This request would have to wait for about {math.ceil(wait_s)} s, and at most"
                f" {most_s:g} s are allowed; try again later."
            )
            retry_after = max(1, min(60, math.ceil(wait_s - most_s)))
            raise PoolRefused(ErrorCode.QUEUE_FULL, message, retry_after)
        scheduler = self._scheduler
        room = scheduler.startable + scheduler.max_queue - len(scheduler.waiting)
        if n > room:
            message = (
                f"{n} generations do not fit into the queue now, {room} would."
                if room > 0
                else f"All workers are busy and {len(scheduler.waiting)} requests wait already,"
                f" of at most {scheduler.max_queue}; try again later."
            )
            raise PoolRefused(ErrorCode.QUEUE_FULL, message, self._retry_after_s())
        return model

    async def generate(
        self, request: Generate, terms: Terms = DEFAULT_TERMS
    ) -> AsyncGenerator[Event, None]:
        """See `gateway.pool.base.WorkerPool.generate`."""
        self.admit()
        if self._dispatcher.quarantine.holds(request, time.monotonic()):
            raise PoolRefused(ErrorCode.WORKER_CRASHED, KILLS_WORKERS, 60)
        job = self._dispatcher.take(request, terms)
        self._watch.hurry()
        try:
            while True:
                event = await job.get()
                yield event
                # The first test spares each token the second, which makes a union of types.
                if type(event) is not Delta and isinstance(event, Finished | Failed):
                    return
        finally:
            self._dispatcher.abandon(job)

    async def prepare(self, question: Question) -> Prepared | Failed:
        """See `gateway.pool.base.WorkerPool.prepare`."""
        self._check_open()
        return await self._preparers.prepare(question)

    def status(self) -> PoolStatus:
        """See `gateway.pool.base.WorkerPool.status`."""
        scheduler, (state, reason) = self._scheduler, self._state()
        return PoolStatus(
            state,
            reason,
            self._dispatcher.model,
            workers=self._dispatcher.workers(),
            waiting=len(scheduler.waiting),
            max_running=scheduler.max_running,
            max_queue=scheduler.max_queue,
            zygote=self._zygote.status,
            prefix_cache=scheduler.prefixes.status,
            totals=self._dispatcher.totals,
        )

    def stop_accepting(self) -> None:
        """Refuse new generations with ``shutting_down``; those that were taken go on."""
        self._is_draining = True

    async def idle(self) -> None:
        """Return when no generation waits or runs, those included that nobody waits for."""
        await self._dispatcher.is_idle.wait()

    async def close(self) -> None:
        """End every generation and every process; safe to call again, and to cancel."""
        if self._closed is None:
            self._closed = asyncio.create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._closing.set()
        shutting_down = ErrorCode.SHUTTING_DOWN, "the server is shutting down"
        self._dispatcher.end_all(*shutting_down)
        self._preparers.end_all(*shutting_down)
        for keeper in self._keepers:
            if keeper.process is not None:
                keeper.process.send(Shutdown())
        # Also ends a start that waits for the model to load.
        await self._zygote.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUTDOWN_S)
            for keeper in self._keepers:
                keeper.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._watch.close()
        self._dispatcher.is_settled.set()  # also where nothing was started

    def _state(self) -> tuple[State, str | None]:
        """The state, and the reason of a failure."""
        if self._is_draining or self._closing.is_set():
            return "closing", None
        if any(keeper.state == "ready" for keeper in self._dispatcher.keepers):
            is_short = self._watch.is_short
            return "ready", "there is less free memory than MIN_FREE_MEMORY" if is_short else None
        if (failure := self._dispatcher.failure) is not None:
            return "failed", failure
        # Once there was a model, what comes waits for the workers that are being replaced.
        return "starting", None

    def _check_open(self) -> ModelInfo:
        state, reason = self._state()
        if state == "closing":
            raise PoolRefused(ErrorCode.SHUTTING_DOWN, "The server is shutting down.", 5)
        if state == "failed":
            message = f"no worker could be started: {reason}"
            raise PoolRefused(ErrorCode.MODEL_UNAVAILABLE, message, 30)
        if (model := self._dispatcher.model) is None:
            raise PoolRefused(ErrorCode.MODEL_LOADING, "The model is still loading; GET /ready.", 2)
        return model

    def _retry_after_s(self) -> int:
        """Seconds until there is expected to be room, 1 to 60.

        Each place that gets free is promised to one of those that are refused: told the same time,
        all but one of them would be refused again.
        """
        now_s = time.monotonic()
        there = len(self._scheduler.waiting) + len(self._scheduler.running)
        a_place_s = self._scheduler.expected_wait_s(now_s) / max(1, there)
        self._promised_s = min(max(now_s, self._promised_s) + a_place_s, now_s + _MOST_RETRY_S)
        return max(1, math.ceil(self._promised_s - now_s))
