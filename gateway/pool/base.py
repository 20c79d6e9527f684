"""The pool as the routes see it: a generation goes in, its events come out."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from shared.errors import ErrorCode
from shared.messages import Event, Generate, ModelInfo


class PoolRefused(Exception):
    """A generation that the pool did not take; nothing of it has reached a worker.

    Attributes:
        code: `ErrorCode.QUEUE_FULL`, `MODEL_LOADING`, `MODEL_UNAVAILABLE` or `SHUTTING_DOWN`.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, code: ErrorCode, message: str, retry_after: int) -> None:
        """Refuse for the reason ``code``; ``message`` is for the client."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, for ``/ready`` and the log.

    Attributes:
        worker_id: its number, 0-based; it stays when the process is replaced.
        state: what it is doing.
        pid: its process, if there is one.
        restarts: how many processes before this one have died.
        reason: why the last one could not load, if so.
        cached_tokens: how many tokens its KV cache holds, as far as is known.
        generation: of the template that its process was forked from.
    """

    worker_id: int
    state: Literal["starting", "idle", "running", "failed"]
    pid: int | None
    restarts: int
    reason: str | None = None
    cached_tokens: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class TemplateStatus:
    """What workers are forked from.

    Attributes:
        generation: its number; 0 is the one that loaded the model.
        prefix_tokens: how many tokens its KV cache holds, and so does that of every new worker.
        learned: how many prefixes were found in what arrives and taken into a template.
    """

    generation: int = 0
    prefix_tokens: int = 0
    learned: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What there has been since the start.

    Attributes:
        prompt_tokens: tokens in prompts.
        cached_tokens: how many of them were in a KV cache.
        completion_tokens: tokens generated.
        evictions: conversations that were lost from a KV cache since another took its place.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    evictions: int = 0


State: TypeAlias = Literal["starting", "ready", "failed", "closing"]


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What each request has to know of the pool; it costs the same however many workers there are.

    Attributes:
        state: ``ready`` means at least one worker has its model.
        reason: why the state is ``failed``, else None.
        model: the loaded model, once a worker has reported it.
        idle: how many generations could start now.
        waiting: generations in the backlog.
        max_queue: the most that may wait.
    """

    state: State
    reason: str | None
    model: ModelInfo | None
    idle: int
    waiting: int
    max_queue: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool at this moment.

    Attributes:
        state: ``ready`` means at least one worker has its model.
        reason: why the state is ``failed``, else None.
        model: the loaded model, once a worker has reported it.
        workers: one entry for each worker.
        waiting: generations in the backlog.
        max_queue: the most that may wait.
        slots: how many may run at the same time; None if as many as there are workers.
        template: what workers are forked from.
        totals: what there has been since the start.
    """

    state: State
    reason: str | None
    model: ModelInfo | None
    workers: tuple[WorkerStatus, ...]
    waiting: int
    max_queue: int
    slots: int | None = None
    template: TemplateStatus = TemplateStatus()
    totals: Totals = Totals()

    @property
    def running(self) -> int:
        """How many workers are generating."""
        return sum(worker.state == "running" for worker in self.workers)

    @property
    def idle(self) -> int:
        """How many generations could start now."""
        idle = sum(worker.state == "idle" for worker in self.workers)
        return idle if self.slots is None else max(0, min(idle, self.slots - self.running))

    @property
    def load(self) -> PoolLoad:
        """The part that each request has to know."""
        return PoolLoad(
            self.state, self.reason, self.model, self.idle, self.waiting, self.max_queue
        )


class WorkerPool(Protocol):
    """Runs generations somewhere; knows nothing of HTTP."""

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""

    def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one generation: ``Prefilled, Delta*``, then one terminal event, then the end.

        Admission happens when the first event is asked for. Closing the generator cancels the
        generation.

        Raises:
            PoolRefused: on the first step, if the generation is not taken.
        """

    def load(self) -> PoolLoad:
        """The part of the status that each request has to know."""

    def status(self) -> PoolStatus:
        """What the pool and each worker is doing; never asks a worker."""

    async def close(self) -> None:
        """End every generation with `Failed` (``shutting_down``) and every worker process."""
