"""The pool of worker processes on this machine: their start, their death, their end."""

import asyncio
import atexit
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeAlias

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
from gateway.pool.starting import Starter
from gateway.pool.template import Template
from gateway.pool.warming import Prompt, Warming
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

Prepare: TypeAlias = Callable[[Question], Awaitable[Prepared | Failed]]
"""As `gateway.pool.base.WorkerPool.prepare`."""

# How long workers get to end by themselves when the pool closes.
_SHUTDOWN_S = 1.0


class LocalPool:
    """Worker processes forked from one template; see `gateway.pool.base.WorkerPool`."""

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
        template_target: Callable[..., None] | None = None,
        learns: bool = True,
        warm_prompts: Callable[[ModelInfo, Prepare], Awaitable[Sequence[Prompt]]] | None = None,
        preload: Sequence[str] = (),
        limits: Limits = NO_LIMITS,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: what each worker gets; ``config.threads`` is shared out among those that run.
            workers: how many generations may run at the same time.
            max_queue: the most generations that may wait.
            target: body of a worker process, called with ``config``, its queue and its pipe.
            preparer: the same of a preparer.
            preparers: how many of these there are.
            parked: how many more processes there are, for the conversations in their KV caches.
            template_target: body of a template with a prefix; None for no such templates.
            learns: whether to look for such a prefix in what arrives.
            warm_prompts: gives prompts whose common beginning all workers are born with; raises
                `ValueError` if the model has no such prompts.
            preload: modules that load the model in the template.
            limits: what is borne with, of workers and of what waits for them.
        """
        self._template = Template(config, preload)
        self._dispatcher = Dispatcher(
            self, slots=workers, max_queue=max_queue, threads=config.threads
        )
        starter = Starter(self._template, target, config, limits.start_timeout_s)
        self._keepers = [
            WorkerKeeper(worker_id, starter, self) for worker_id in range(workers + parked)
        ]
        self._guard = Guard(self._keepers, self._dispatcher, starter, limits)
        self._preparers = Preparers(
            Starter(self._template, preparer, config, limits.start_timeout_s),
            preparers=preparers,
            most=max_queue + workers,
        )
        self._warming = Warming(self._template, template_target, self._on_newborn, learns=learns)
        self._warm_prompts = warm_prompts
        self._model: ModelInfo | None = None
        self._failure: str | None = None
        self._is_draining = False
        self._kept: list[WorkerKeeper] = []
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""
        # Workers ignore SIGTERM, so the way in which multiprocess ends its children at exit would
        # wait for ever, should `close` not have run.
        atexit.register(self._kill_all)
        self._guard.begin()
        # With a prefix to be born with, the others wait for it; one has to say what the model is.
        self._keep(self._keepers[:1] if self._warm_prompts else self._keepers)
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
        template = self._warming.status
        return status_of(*self._state(), self._model, self._dispatcher, self._keepers, template)

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
        self._warming.begin_close()
        shutting_down = ErrorCode.SHUTTING_DOWN, "the server is shutting down"
        self._dispatcher.end_all(*shutting_down)
        self._preparers.end_all(*shutting_down)
        self._preparers.begin_close()
        for keeper in self._keepers:
            if keeper.handle is not None:
                keeper.handle.send(Shutdown())
        # Also ends a start that waits for the model to load.
        self._template.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUTDOWN_S)
            self._kill_all()
            self._template.kill()  # made by a start that was only beginning before
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._preparers.kill()
        await self._preparers.close()
        await self._warming.close()
        await self._guard.close()
        await asyncio.to_thread(self._template.stop)
        self._settled.set()  # also where nothing was started
        atexit.unregister(self._kill_all)

    def _state(self) -> tuple[State, str | None]:
        """The state, and the reason of a failure."""
        if self._is_draining or self._closing.is_set():
            return "closing", None
        if self._failure is not None:
            return "failed", self._failure
        if self._warm_prompts is None and any(
            keeper.state == "ready" or keeper.renewing for keeper in self._kept
        ):
            return "ready", self._guard.obstacle
        if self._kept and all(keeper.state == "failed" for keeper in self._kept):
            return "failed", next((keeper.reason for keeper in self._kept if keeper.reason), None)
        return "starting", None

    def _check_open(self) -> None:
        state, reason = self._state()
        if state in ("starting", "ready"):
            # While all workers are being replaced, what comes waits for them.
            is_loading = self._model is None or self._warm_prompts is not None
            state = "starting" if is_loading else "ready"
        check_state(state, reason)

    # ---- the prefix that workers are born with

    async def _warm_first(self, model: ModelInfo) -> None:
        """Have all workers born with the prefix that was asked for, before anything is served."""
        assert self._warm_prompts is not None
        try:
            prompts = await self._warm_prompts(model, self._preparers.prepare)
            await self._warming.ask(tuple(prompts))
        except Exception as error:  # whatever it is, the start has failed
            self._failure = f"WARM_PROMPT: {error}"
            self._settled.set()
            return
        self._warm_prompts = None
        self._keepers[0].renew()
        self._keep(self._keepers[1:])

    def _on_newborn(self) -> None:
        self._dispatcher.scheduler.newborn = self._warming.newborn
        self._renew_blank()

    def _renew_blank(self) -> None:
        """Replace the next unused worker from an older template, one after the other."""
        if (step := self._dispatcher.scheduler.renew_blank()) is not None:
            self.renew(step.worker_id)

    # ---- what the dispatcher asks (`gateway.pool.dispatcher.Workers`)

    def send(self, worker_id: int, command: Command) -> None:
        """Put a command on a worker's queue."""
        handle = self._keepers[worker_id].handle
        assert handle is not None, "the scheduler knows only workers that are alive"
        handle.send(command)

    def renew(self, worker_id: int) -> None:
        """Replace the process of a worker that runs nothing."""
        self._keepers[worker_id].renew()

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, worker_id: int, model: ModelInfo, fork_s: float | None) -> None:
        """Put a worker into rotation."""
        is_first, self._model = self._model is None, model
        self._dispatcher.scheduler.can_rewind = model.can_rewind
        if self._warm_prompts is not None:
            if is_first:
                self._tasks.append(asyncio.create_task(self._warm_first(model)))
            return
        self._warming.check()
        handle = self._keepers[worker_id].handle
        assert handle is not None, "it has just spoken"
        born, born_tokens = self._warming.born(handle.generation)
        fork_ms = None if fork_s is None else fork_s * 1000
        self._dispatcher.add_worker(worker_id, born, born_tokens, fork_ms)
        self._settled.set()
        self._renew_blank()

    def on_gone(self, worker_id: int) -> None:
        """Take a worker out of rotation."""
        self._dispatcher.remove_worker(worker_id)

    def on_death(self, worker_id: int, death: Death) -> None:
        """Save what a worker ran if that can be done."""
        if not self._closing.is_set():
            self._dispatcher.rescue(worker_id, death)

    def on_timeout(self, reason: str) -> None:
        """Give up if not even the first worker could load the model in time."""
        if self._model is None:
            self._failure = reason
            self._settled.set()

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

    def _keep(self, keepers: Sequence[WorkerKeeper]) -> None:
        self._kept += keepers
        self._tasks += [asyncio.create_task(keeper.keep(self._closing)) for keeper in keepers]

    def _kill_all(self) -> None:
        self._template.kill()
        self._preparers.kill()
        for keeper in self._keepers:
            keeper.kill()
