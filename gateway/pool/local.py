"""The pool of worker processes on this machine: dispatch, cancel, crash, restart."""

import asyncio
import atexit
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.pool.base import PoolRefused, PoolStatus, WorkerStatus
from gateway.pool.handle import WorkerHandle
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
    LoadFailed,
    Message,
    ModelInfo,
    Prefilled,
    Ready,
    SetThreads,
    Shutdown,
)

logger = logging.getLogger(__name__)

# A worker that dies sooner than this after it was started has died young.
_YOUNG_S = 1.0
_FAILURES_UNTIL_FAILED = 3
_MAX_BACKOFF_S = 30.0
_SHUTDOWN_S = 1.0


@dataclass(slots=True)
class _Slot:
    """A place for a worker; processes come and go in it.

    Attributes:
        ready: whether this process, or the one before it, has reported its model.
        load_failed: whether it has reported that it cannot load it.
        failures: how many in a row have died young.
        reason: why the last one could not be used.
    """

    worker_id: int
    handle: WorkerHandle | None = None
    state: Literal["starting", "idle", "running", "failed"] = "starting"
    ready: bool = False
    load_failed: bool = False
    restarts: int = 0
    failures: int = 0
    reason: str | None = None


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
        self._slots = [_Slot(worker_id) for worker_id in range(workers)]
        self._processes: set[WorkerHandle] = set()
        self._generations: dict[str, _Generation] = {}
        self._model: ModelInfo | None = None
        self._settled = asyncio.Event()
        self._start_lock = asyncio.Lock()
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._mean_duration_s = 1.0

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""
        # Workers ignore SIGTERM, so the way in which multiprocess ends its children at exit would
        # wait for ever, should `close` not have run.
        atexit.register(self._kill_all)
        self._keepers = [asyncio.create_task(self._keep_worker(slot)) for slot in self._slots]
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
        state: Literal["starting", "ready", "failed", "closing"]
        reason = None
        if self._closing.is_set():
            state = "closing"
        elif any(slot.state in ("idle", "running") for slot in self._slots):
            state = "ready"
        elif all(slot.state == "failed" for slot in self._slots):
            state = "failed"
            reason = next((slot.reason for slot in self._slots if slot.reason), None)
        else:
            state = "starting"
        return PoolStatus(
            state=state,
            reason=reason,
            model=self._model,
            workers=tuple(
                WorkerStatus(
                    worker_id=slot.worker_id,
                    state=slot.state,
                    pid=slot.handle.pid if slot.handle else None,
                    restarts=slot.restarts,
                    reason=slot.reason,
                )
                for slot in self._slots
            ),
            waiting=len(self._scheduler.waiting),
            max_queue=self._scheduler.max_queue,
        )

    async def close(self) -> None:
        """End every generation and every process; safe to call again."""
        self._closing.set()
        for generation in list(self._generations.values()):
            self._end_with(generation, ErrorCode.SHUTTING_DOWN, "the server is shutting down")
        for slot in self._slots:
            if slot.handle is not None:
                slot.handle.send(Shutdown())
        # Also ends a start that waits for the model to load.
        await asyncio.to_thread(self._template.stop)
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=_SHUTDOWN_S)
            self._kill_all()
            await asyncio.gather(*self._keepers)
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
        return min(60, math.ceil(self._mean_duration_s / len(self._slots)))

    def _dispatch(self) -> None:
        """Start what can be started, and share the threads out among all that run."""
        started = []
        while (pair := self._scheduler.next()) is not None:
            request, worker_id = pair
            self._slots[worker_id].state = "running"
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
        handle = self._slots[worker_id].handle
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

    # ---- one worker

    async def _keep_worker(self, slot: _Slot) -> None:
        """Keep a process in the slot, whatever happens to it."""
        while True:
            started = time.monotonic()
            await self._run_worker(slot)
            if self._closing.is_set():
                self._settled.set()
                return
            slot.restarts += 1
            young = not slot.ready or time.monotonic() - started < _YOUNG_S
            slot.failures = slot.failures + 1 if young else 0
            if not slot.ready and (slot.load_failed or slot.failures >= _FAILURES_UNTIL_FAILED):
                self._give_up(slot)
            if slot.failures > 1 or slot.state == "failed":
                backoff_s = min(_MAX_BACKOFF_S, 0.1 * 2**slot.failures)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), backoff_s)

    async def _run_worker(self, slot: _Slot) -> None:
        """Start a process, serve until it has died, clean up after it."""
        slot.ready = slot.load_failed = False
        try:
            async with self._start_lock:
                handle = await asyncio.to_thread(self._start_process, slot)
        except OSError as error:
            slot.reason = f"a worker could not be started: {error}"
            return
        slot.handle = handle
        handle.attach(lambda message: self._on_message(slot, message))
        if self._closing.is_set():
            handle.kill()
        await handle.exited
        self._bury(slot)
        exitcode = await asyncio.to_thread(handle.reap)
        self._processes.discard(handle)
        if slot.load_failed:
            # The next try is to load the model again, not to fork from the failure.
            await asyncio.to_thread(self._template.stop)
        elif not slot.ready:
            slot.reason = f"a worker died before it was ready (exit status {exitcode})"
        if not self._closing.is_set():
            logger.warning(
                "worker %d (pid %d) died, exit status %s", slot.worker_id, handle.pid, exitcode
            )

    def _give_up(self, slot: _Slot) -> None:
        """Report the slot as failed; it is tried again, ever more seldom."""
        logger.error("worker %d cannot be started: %s", slot.worker_id, slot.reason)
        slot.state = "failed"
        status = self.status()
        if status.state == "failed":
            self._settled.set()
            for request in list(self._scheduler.waiting):
                self._end_with(
                    self._generations[request.request_id],
                    ErrorCode.MODEL_UNAVAILABLE,
                    f"no worker could be started: {status.reason}",
                )

    def _bury(self, slot: _Slot) -> None:
        """Take a dead worker out of rotation, and save what it ran if that can be done."""
        orphans = [
            self._generations[request_id]
            for request_id, worker_id in self._scheduler.running.items()
            if worker_id == slot.worker_id and request_id in self._generations
        ]
        self._scheduler.remove_worker(slot.worker_id)
        slot.handle = None
        slot.state = "starting"
        for generation in orphans:
            self._rescue(generation)
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

    def _on_message(self, slot: _Slot, message: Message) -> None:
        match message:
            case Prefilled() | Delta() | Finished() | Failed():
                self._on_event(slot, message)
            case Ready(model):
                self._model = model
                slot.state = "idle"
                slot.ready = True
                slot.reason = None
                self._scheduler.add_worker(slot.worker_id)
                self._settled.set()
                self._dispatch()
            case LoadFailed(reason):
                slot.load_failed = True
                slot.reason = reason
            case _:
                raise ValueError(f"a worker sent a command: {message!r}")

    def _on_event(self, slot: _Slot, event: Event) -> None:
        generation = self._generations.get(event.request_id)
        if generation is None:
            return  # ended by us, as in `close`
        if isinstance(event, Delta):
            generation.text.append(event.text)
        elif isinstance(event, Finished | Failed):
            self._release(slot, generation, event)
        if isinstance(event, Prefilled) and generation.prefilled:
            return  # the second run of a generation whose first worker died
        generation.prefilled = True
        if not generation.abandoned:
            generation.events.put_nowait(event)

    def _release(self, slot: _Slot, generation: _Generation, event: Finished | Failed) -> None:
        request = generation.request
        duration = time.monotonic() - generation.started
        self._mean_duration_s += 0.1 * (duration - self._mean_duration_s)
        slot.state = "idle"
        del self._generations[request.request_id]
        self._scheduler.finish(request.request_id, request.prompt + "".join(generation.text))
        self._dispatch()

    def _start_process(self, slot: _Slot) -> WorkerHandle:
        name = f"worker-{slot.worker_id}"
        handle = WorkerHandle.start(self._template, self._target, name, self._config)
        # Noted in this thread: the task that waits for it may have been cancelled meanwhile.
        self._processes.add(handle)
        return handle

    def _kill_all(self) -> None:
        for handle in list(self._processes):
            handle.kill()
