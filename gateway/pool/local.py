"""The pool of worker processes on this machine: admission, dispatch, events, close."""

import asyncio
import math
import time
from collections import Counter
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
from gateway.pool.faults import KILLS_WORKERS, Death
from gateway.pool.job import Job
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.prepare import Preparers
from gateway.pool.process import WorkerProcess
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
    Prefilled,
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
        self._workers, self._limits = workers, limits
        self._zygote = Zygote(
            config,
            [*preload, target.__module__],
            warm_prompt=warm_prompt,
            start_timeout_s=limits.start_timeout_s,
        )
        self._keepers = [
            WorkerKeeper(worker_id, self._zygote, target, self)
            for worker_id in range(workers + parked)
        ]
        self._dispatcher = Dispatcher(max_queue=max_queue, threads=config.threads)
        self._scheduler = self._dispatcher.scheduler
        self._watch = Watch(self._keepers, self._zygote, self._dispatcher, limits)
        self._preparers = Preparers(
            self._zygote, preparer, preparers=preparers, most=4 * (max_queue + workers)
        )
        self._model: ModelInfo | None = None
        self._is_draining = False
        # When the place gets free that was promised last to somebody who was refused.
        self._promised_s = 0.0
        self._settled, self._closing = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""
        self._zygote.begin()
        self._watch.begin()
        self._tasks += [asyncio.create_task(each.keep(self._closing)) for each in self._keepers]
        self._preparers.begin()
        await self._settled.wait()

    async def settled(self) -> PoolStatus:
        """Wait until the first worker is ready, or none can be, or the pool is closed."""
        await self._settled.wait()
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
        n_running = Counter(job.slot.worker_id for job in scheduler.running.values() if job.slot)
        return PoolStatus(
            state,
            reason,
            self._model,
            workers=tuple(
                keeper.status(
                    n_running[keeper.worker_id],
                    scheduler.cached_tokens(keeper.worker_id),
                )
                for keeper in self._keepers
            ),
            waiting=len(scheduler.waiting),
            max_running=scheduler.max_running,
            max_queue=scheduler.max_queue,
            zygote=self._zygote.status,
            totals=self._dispatcher.totals,
        )

    def stop_accepting(self) -> None:
        """Refuse new generations with ``shutting_down``; those that were taken go on."""
        self._is_draining = True

    async def idle(self) -> None:
        """Return when no generation waits or runs, those included that nobody waits for."""
        await self._dispatcher.is_idle.wait()

    async def close(self) -> None:
        """End every generation and every process; safe to call again."""
        self._closing.set()
        shutting_down = ErrorCode.SHUTTING_DOWN, "the server is shutting down"
        self._dispatcher.end_all(*shutting_down)
        self._preparers.end_all(*shutting_down)
        self._preparers.begin_close()
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
        self._preparers.kill()
        await self._preparers.close()
        await self._watch.close()
        self._settled.set()  # also where nothing was started

    def _state(self) -> tuple[State, str | None]:
        """The state, and the reason of a failure."""
        if self._is_draining or self._closing.is_set():
            return "closing", None
        if any(keeper.state == "ready" for keeper in self._keepers):
            is_short = self._watch.is_short
            return "ready", "there is less free memory than MIN_FREE_MEMORY" if is_short else None
        if all(keeper.state == "failed" for keeper in self._keepers):
            return "failed", next((each.reason for each in self._keepers if each.reason), None)
        # Once there was a model, what comes waits for the workers that are being replaced.
        return "starting", None

    def _check_open(self) -> ModelInfo:
        state, reason = self._state()
        if state == "closing":
            raise PoolRefused(ErrorCode.SHUTTING_DOWN, "The server is shutting down.", 5)
        if state == "failed":
            message = f"no worker could be started: {reason}"
            raise PoolRefused(ErrorCode.MODEL_UNAVAILABLE, message, 30)
        if self._model is None:
            raise PoolRefused(ErrorCode.MODEL_LOADING, "The model is still loading; GET /ready.", 2)
        return self._model

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

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, worker_id: int, process: WorkerProcess, model: ModelInfo) -> None:
        """Put a worker into rotation."""
        self._model = model
        self._scheduler.can_rewind = model.can_rewind
        self._scheduler.max_running = self._workers * model.n_slots
        self._dispatcher.add_worker(worker_id, process, model.n_slots, self._zygote.warm)
        self._settled.set()

    def on_event(self, job: Job, event: Prefilled | Finished | Failed) -> None:
        self._dispatcher.on_event(job, event)

    def on_gone(self, worker_id: int) -> None:
        """Take a worker out of rotation."""
        self._dispatcher.remove_worker(worker_id)

    def on_death(self, worker_id: int, death: Death) -> None:
        """Save what a worker ran if that can be done."""
        if not self._closing.is_set():
            self._dispatcher.rescue(worker_id, death)

    def on_failed(self) -> None:
        """End what waits if no worker can be expected any more."""
        state, reason = self._state()
        if state == "failed":
            self._settled.set()
            unavailable = ErrorCode.MODEL_UNAVAILABLE, f"no worker could be started: {reason}"
            self._dispatcher.end_waiting(*unavailable)
            self._preparers.end_all(*unavailable)
