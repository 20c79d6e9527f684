"""The pool of worker processes on this machine: dispatch, cancel, crash, restart."""

import asyncio
import atexit
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.pool.base import PoolRefused, PoolStatus
from gateway.pool.handle import WorkerHandle
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.scheduler import Scheduler
from gateway.pool.template import Template
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import (
    Cancel,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Prefilled,
    SetThreads,
    Shutdown,
)

# How long workers get to end by themselves when the pool closes.
_SHUTDOWN_S = 1.0


@dataclass(slots=True, eq=False)
class _Generation:
    """A generation that the pool has taken and not ended."""

    request: Generate
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    text: list[str] = field(default_factory=list)
    prefilled: bool = False
    abandoned: bool = False
    crashes: int = 0
    started: float = 0.0


class LocalPool:
    """N worker processes forked from one template; see `gateway.pool.base.WorkerPool`."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        workers: int,
        max_queue: int,
        target: Callable[..., None],
        preload: Sequence[str] = (),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: what each worker gets; ``config.threads`` is shared out among those that run.
            workers: how many processes.
            max_queue: the most generations that may wait.
            target: body of a worker process, called with ``config``, its queue and its pipe.
            preload: modules that load the model in the template.
        """
        self._config = config
        self._target = target
        self._template = Template(config, preload)
        self._scheduler = Scheduler(max_queue)
        self._keepers = [
            WorkerKeeper(worker_id, self._start_process, self._template.stop, self)
            for worker_id in range(workers)
        ]
        self._generations: dict[str, _Generation] = {}
        self._model: ModelInfo | None = None
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._mean_duration_s = 1.0

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""
        # Workers ignore SIGTERM, so the way in which multiprocess ends its children at exit would
        # wait for ever, should `close` not have run.
        atexit.register(self._kill_all)
        start_lock = asyncio.Lock()
        self._tasks = [
            asyncio.create_task(keeper.keep(start_lock, self._closing)) for keeper in self._keepers
        ]
        await self._settled.wait()

    async def settled(self) -> PoolStatus:
        """Wait until the first worker is ready, or none can be, or the pool is closed."""
        await self._settled.wait()
        return self.status()

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one generation; see `gateway.pool.base.WorkerPool.generate`."""
        generation = self._admit(request)
        try:
            while True:
                event = await generation.events.get()
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            self._abandon(generation)

    def status(self) -> PoolStatus:
        """What the pool is doing."""
        running = set(self._scheduler.running.values())
        states = [keeper.state for keeper in self._keepers]
        state: Literal["starting", "ready", "failed", "closing"] = "starting"
        reason = None
        if self._closing.is_set():
            state = "closing"
        elif "ready" in states:
            state = "ready"
        elif all(each == "failed" for each in states):
            state = "failed"
            reason = next((keeper.reason for keeper in self._keepers if keeper.reason), None)
        return PoolStatus(
            state=state,
            reason=reason,
            model=self._model,
            workers=tuple(keeper.status(keeper.worker_id in running) for keeper in self._keepers),
            waiting=len(self._scheduler.waiting),
            max_queue=self._scheduler.max_queue,
        )

    async def close(self) -> None:
        """End every generation and every process; safe to call again."""
        self._closing.set()
        for generation in list(self._generations.values()):
            self._end_with(generation, ErrorCode.SHUTTING_DOWN, "the server is shutting down")
        for keeper in self._keepers:
            if keeper.handle is not None:
                keeper.handle.send(Shutdown())
        # Also ends a start that waits for the model to load.
        self._template.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUTDOWN_S)
            self._kill_all()
            self._template.kill()  # made by a start that was only beginning before
            await asyncio.gather(*self._tasks)
        await asyncio.to_thread(self._template.stop)
        self._settled.set()  # also where nothing was started
        atexit.unregister(self._kill_all)

    # ---- one generation

    def _admit(self, request: Generate) -> _Generation:
        status = self.status()
        if status.state == "closing":
            raise PoolRefused(ErrorCode.SHUTTING_DOWN, "the server is shutting down", 5)
        if status.state == "failed":
            raise PoolRefused(
                ErrorCode.MODEL_UNAVAILABLE, f"no worker could be started: {status.reason}", 30
            )
        if self._model is None:
            raise PoolRefused(ErrorCode.MODEL_LOADING, "the model is being loaded", 2)
        if not self._scheduler.submit(request):
            raise PoolRefused(
                ErrorCode.QUEUE_FULL,
                f"all workers are busy and {status.waiting} requests wait already,"
                f" of at most {status.max_queue}; try again later",
                self._retry_after(),
            )
        generation = _Generation(request)
        self._generations[request.request_id] = generation
        self._dispatch()
        return generation

    def _retry_after(self) -> int:
        """Seconds until the backlog has moved by one place, as far as the past can tell."""
        return min(60, math.ceil(self._mean_duration_s / len(self._keepers)))

    def _dispatch(self) -> None:
        """Start what can be started, and share the threads out among all that run."""
        started = []
        while (pair := self._scheduler.next()) is not None:
            request, worker_id = pair
            self._generations[request.request_id].started = time.monotonic()
            started.append(pair)
        self._share_threads()
        for request, worker_id in started:
            self._handle(worker_id).send(request)

    def _share_threads(self) -> None:
        running = self._scheduler.running.values()
        threads = max(1, self._config.threads // max(1, len(running)))
        for worker_id in running:
            handle = self._handle(worker_id)
            if handle.threads != threads:
                handle.threads = threads
                handle.send(SetThreads(threads))

    def _handle(self, worker_id: int) -> WorkerHandle:
        handle = self._keepers[worker_id].handle
        assert handle is not None, "the scheduler knows only workers that are alive"
        return handle

    def _abandon(self, generation: _Generation) -> None:
        """The consumer is gone. Harmless after the terminal event."""
        request_id = generation.request.request_id
        if self._generations.get(request_id) is not generation:
            return
        if self._scheduler.withdraw(request_id):
            del self._generations[request_id]
            return
        # The worker is free only after its terminal event; until then nobody reads the others.
        generation.abandoned = True
        self._handle(self._scheduler.running[request_id]).send(Cancel(request_id))

    def _end_with(self, generation: _Generation, code: ErrorCode, message: str) -> None:
        """End a generation that no worker will end."""
        request_id = generation.request.request_id
        self._scheduler.withdraw(request_id)
        del self._generations[request_id]
        generation.events.put_nowait(Failed(request_id, code.value, message))

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, worker_id: int, model: ModelInfo) -> None:
        """Put a worker into rotation."""
        self._model = model
        self._scheduler.add_worker(worker_id)
        self._settled.set()
        self._dispatch()

    def on_death(self, worker_id: int) -> None:
        """Take a worker out of rotation, and save what it ran if that can be done."""
        orphans = [
            self._generations[request_id]
            for request_id, running_on in self._scheduler.running.items()
            if running_on == worker_id and request_id in self._generations
        ]
        self._scheduler.remove_worker(worker_id)
        for generation in orphans:
            self._rescue(generation)
        self._dispatch()

    def on_failed(self) -> None:
        """End what waits if no worker can be expected any more."""
        status = self.status()
        if status.state != "failed":
            return
        self._settled.set()
        for request in list(self._scheduler.waiting):
            self._end_with(
                self._generations[request.request_id],
                ErrorCode.MODEL_UNAVAILABLE,
                f"no worker could be started: {status.reason}",
            )

    def on_event(self, event: Event) -> None:
        """Pass an event on to whoever consumes its generation."""
        generation = self._generations.get(event.request_id)
        if generation is None:
            return  # ended by us, as in `close`
        if isinstance(event, Delta):
            generation.text.append(event.text)
        elif isinstance(event, Finished | Failed):
            self._release(generation)
        if isinstance(event, Prefilled) and generation.prefilled:
            return  # the second run of a generation whose first worker died
        generation.prefilled = True
        if not generation.abandoned:
            generation.events.put_nowait(event)

    def _release(self, generation: _Generation) -> None:
        request = generation.request
        duration = time.monotonic() - generation.started
        self._mean_duration_s += 0.1 * (duration - self._mean_duration_s)
        del self._generations[request.request_id]
        self._scheduler.finish(request.request_id, "".join((*request.prompt, *generation.text)))
        self._dispatch()

    def _rescue(self, generation: _Generation) -> None:
        generation.crashes += 1
        if generation.abandoned:
            del self._generations[generation.request.request_id]
        elif generation.crashes == 1 and not generation.text:
            self._scheduler.resubmit(generation.request)
        else:
            self._end_with(
                generation,
                ErrorCode.WORKER_CRASHED,
                "the worker process died while it ran this request",
            )

    def _start_process(self, name: str) -> WorkerHandle:
        return WorkerHandle.start(self._template, self._target, name, self._config)

    def _kill_all(self) -> None:
        for keeper in self._keepers:
            keeper.kill()
