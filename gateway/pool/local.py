"""The pool of worker processes on this machine: their start, their death, their end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from gateway.pool.base import (
    DEFAULT_TERMS,
    GenerationRecord,
    PoolLoad,
    PoolStatus,
    State,
    Terms,
)
from gateway.pool.death import Death
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.guard import Guard, check_state
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.limits import NO_LIMITS, Limits
from gateway.pool.prepare import Preparers
from gateway.pool.report import load_of, status_of
from gateway.pool.zygote import Zygote
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import (
    Command,
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
            workers: how many generations may run at the same time.
            max_queue: the most generations that may wait.
            target: body of a worker process, called with ``config``, its inbox and its outbox.
            preparer: the same of a preparer.
            preparers: how many of these there are.
            parked: how many more processes there are, for the conversations in their KV caches.
            warm_prompt: the system message that all workers have in their caches from the start.
            preload: further modules that the zygote imports before it loads the model.
            limits: what is borne with, of workers and of what waits for them.
        """
        self._zygote = Zygote(
            config,
            [*preload, target.__module__],
            warm_prompt=warm_prompt,
            start_timeout_s=limits.start_timeout_s,
        )
        self._dispatcher = Dispatcher(
            self, slots=workers, max_queue=max_queue, threads=config.threads
        )
        self._keepers = [
            WorkerKeeper(worker_id, self._zygote, target, self)
            for worker_id in range(workers + parked)
        ]
        self._guard = Guard(self._keepers, self._dispatcher, self._zygote, limits)
        self._preparers = Preparers(
            self._zygote, preparer, preparers=preparers, most=4 * (max_queue + workers)
        )
        self._model: ModelInfo | None = None
        self._is_draining = False
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""
        self._zygote.begin()
        self._guard.begin()
        self._tasks += [asyncio.create_task(each.keep(self._closing)) for each in self._keepers]
        self._preparers.begin()
        await self._settled.wait()

    async def settled(self) -> PoolStatus:
        """Wait until the first worker is ready, or none can be, or the pool is closed."""
        await self._settled.wait()
        return self.status()

    async def generate(
        self,
        request: Generate,
        terms: Terms = DEFAULT_TERMS,
        record: GenerationRecord | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run one generation; see `gateway.pool.base.WorkerPool.generate`."""
        self._check_open()
        events = self._guard.take(request, terms, record or GenerationRecord())
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            self._dispatcher.abandon(request.request_id, events)

    async def prepare(self, question: Question) -> Prepared | Failed:
        """Answer a question; see `gateway.pool.base.WorkerPool.prepare`."""
        self._check_open()
        return await self._preparers.prepare(question)

    def load(self) -> PoolLoad:
        """The part of the status that each request has to know."""
        return load_of(*self._state(), self._model, self._dispatcher)

    def status(self) -> PoolStatus:
        """What the pool and each worker is doing."""
        zygote = self._zygote.status
        return status_of(*self._state(), self._model, self._dispatcher, self._keepers, zygote)

    def stop_accepting(self) -> None:
        """Refuse new generations with ``shutting_down``; those that were taken go on."""
        self._is_draining = True

    async def idle(self) -> None:
        """Return when no generation waits or runs."""
        await self._dispatcher.idle()

    async def close(self) -> None:
        """End every generation and every process; safe to call again."""
        self._closing.set()
        self._guard.end()
        shutting_down = ErrorCode.SHUTTING_DOWN, "the server is shutting down"
        self._dispatcher.end_all(*shutting_down)
        self._preparers.end_all(*shutting_down)
        self._preparers.begin_close()
        for keeper in self._keepers:
            if keeper.handle is not None:
                keeper.handle.send(Shutdown())
        # Also ends a start that waits for the model to load.
        await self._zygote.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUTDOWN_S)
            for keeper in self._keepers:
                keeper.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._preparers.kill()
        await self._preparers.close()
        await self._guard.close()
        self._settled.set()  # also where nothing was started

    def _state(self) -> tuple[State, str | None]:
        """The state, and the reason of a failure."""
        if self._is_draining or self._closing.is_set():
            return "closing", None
        if any(keeper.state == "ready" for keeper in self._keepers):
            return "ready", self._guard.obstacle
        if all(keeper.state == "failed" for keeper in self._keepers):
            return "failed", next((each.reason for each in self._keepers if each.reason), None)
        return "starting", None

    def _check_open(self) -> None:
        state, reason = self._state()
        if state in ("starting", "ready"):
            # While all workers are being replaced, what comes waits for them.
            state = "starting" if self._model is None else "ready"
        check_state(state, reason)

    # ---- what the dispatcher asks (`gateway.pool.dispatcher.Workers`)

    def send(self, worker_id: int, command: Command) -> None:
        """Put a command on a worker's queue."""
        handle = self._keepers[worker_id].handle
        assert handle is not None, "the scheduler knows only workers that are alive"
        handle.send(command)

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, worker_id: int, model: ModelInfo) -> None:
        """Put a worker into rotation."""
        self._model = model
        self._dispatcher.scheduler.can_rewind = model.can_rewind
        zygote = self._zygote
        self._dispatcher.add_worker(worker_id, zygote.warm, zygote.status.prefix_tokens)
        self._settled.set()

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

    def on_event(self, event: Event) -> None:
        """Pass an event on to whoever consumes its generation."""
        self._dispatcher.on_event(event)
