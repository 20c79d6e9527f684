"""The pool as the routes see it: a generation goes in, its events come out."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

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
    """

    worker_id: int
    state: Literal["starting", "idle", "running", "failed"]
    pid: int | None
    restarts: int
    reason: str | None = None


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
    """

    state: Literal["starting", "ready", "failed", "closing"]
    reason: str | None
    model: ModelInfo | None
    workers: tuple[WorkerStatus, ...]
    waiting: int
    max_queue: int

    @property
    def running(self) -> int:
        """How many workers are generating."""
        return sum(worker.state == "running" for worker in self.workers)

    @property
    def idle(self) -> int:
        """How many workers could start a generation now."""
        return sum(worker.state == "idle" for worker in self.workers)


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

    def status(self) -> PoolStatus:
        """What the pool is doing; cheap, never asks a worker."""

    async def close(self) -> None:
        """End every generation with `Failed` (``shutting_down``) and every worker process."""
