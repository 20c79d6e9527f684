"""The pool as the routes see it: a generation goes in, its events come out."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from shared.errors import ErrorCode
from shared.messages import Event, Failed, Generate, ModelInfo, Prepared, Question


class PoolRefused(Exception):
    """A generation or a question that the pool did not take; no worker has heard of it."""

    def __init__(self, code: ErrorCode, message: str, retry_after: int) -> None:
        """Refuse; ``message`` is for the client, and it is worth trying again after so many s."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Terms:
    """On which a generation is taken."""

    #: Its consumer wants nothing before the end. Then it has emitted nothing before the end either,
    #: and is run again whenever its worker dies.
    is_whole: bool = False
    #: When it fails with `ErrorCode.REQUEST_TIMEOUT` unless it has ended, by `time.monotonic`.
    deadline_s: float | None = None
    #: Seconds it may wait for a slot, until it fails with `ErrorCode.QUEUE_TIMEOUT`.
    queue_timeout_s: float | None = None


DEFAULT_TERMS = Terms()
"""Without any bound."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a pool; as they are by default, only what hangs is ended."""

    #: seconds in which the model must be loaded; 0 for no bound
    start_timeout_s: float = 0.0
    #: seconds without progress after which a worker is replaced; 0 for no bound, None learns them
    stall_timeout_s: float | None = None
    #: bytes of private memory beyond which a worker is replaced
    max_worker_memory: int | None = None
    #: bytes of free memory below which nothing new is taken; 0 for no bound
    min_free_memory: int = 0
    #: the longest that a generation may be expected to wait; 0 for no bound
    max_queue_seconds: float = 0.0


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, for ``/ready`` and the log."""

    #: 0-based; it stays when the process is replaced
    worker_id: int
    #: ``running`` while any of its slots is
    state: Literal["starting", "idle", "running", "failed"]
    pid: int | None
    #: how many processes before this one have died
    restarts: int
    #: why the last one could not load, if so
    reason: str | None = None
    #: generations that it runs
    running: int = 0
    #: tokens in its KV caches
    cached_tokens: int = 0
    #: its private memory when it was last measured
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ZygoteStatus:
    """The process that workers are forked from."""

    #: None while there is none
    pid: int | None = None
    #: whether it has its model, so that it can be forked
    is_loaded: bool = False
    #: tokens that its KV cache holds, and so does that of every new worker
    prefix_tokens: int = 0
    #: how many before it have ended
    restarts: int = 0


@dataclass(slots=True)
class Totals:
    """What there has been since the start."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    #: those of `cached_tokens` that came from the prefix cache
    restored_tokens: int = 0
    #: conversations that were lost from a KV cache since another took its place
    evictions: int = 0
    #: worker processes that have died, by the value of `gateway.pool.deaths.Cause`
    deaths: Mapping[str, int] = field(default_factory=dict)
    #: requests that were put into quarantine, since they kill workers
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class PrefixCacheStatus:
    """What is kept of KV caches besides them."""

    size_bytes: int = 0
    used_bytes: int = 0
    #: states that are kept, and those of them that are still to be written
    entries: int = 0
    pending: int = 0


State: TypeAlias = Literal["starting", "ready", "failed", "closing"]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool at this moment."""

    #: ``ready`` means at least one worker has its model
    state: State
    #: why it has failed, or why nothing new is taken though it is ready
    reason: str | None
    #: once a worker has reported it
    model: ModelInfo | None
    workers: tuple[WorkerStatus, ...]
    #: generations in the backlog
    waiting: int
    #: the most that may wait
    max_queue: int
    #: the most that may run at the same time
    max_running: int = 1
    zygote: ZygoteStatus = ZygoteStatus()
    prefix_cache: PrefixCacheStatus = PrefixCacheStatus()
    totals: Totals = field(default_factory=Totals)

    @property
    def running(self) -> int:
        """Generations that run."""
        return sum(worker.running for worker in self.workers)


class WorkerPool(Protocol):
    """Runs generations somewhere; knows nothing of HTTP."""

    async def start(self) -> None:
        """Start the workers; returns when the first is ready or none can be."""

    def admit(self, n: int = 1) -> ModelInfo:
        """Say whether so many generations would be taken now; costs the same for any number.

        Raises:
            PoolRefused: they would not: `MODEL_LOADING`, `MODEL_UNAVAILABLE`, `SHUTTING_DOWN`,
                `INSUFFICIENT_MEMORY` or `QUEUE_FULL`.
        """

    async def prepare(self, question: Question) -> Prepared | Failed:
        """Answer a question about a prompt or about tokens; it never waits behind a generation.

        Cancelling it forgets the question.

        Raises:
            PoolRefused: there is no answer.
        """

    def generate(
        self, request: Generate, terms: Terms = DEFAULT_TERMS
    ) -> AsyncGenerator[Event, None]:
        """Run one generation: ``Prefilled, Delta*``, then one terminal event, then the end.

        It is taken or refused when the first event is asked for. Closing the generator cancels the
        generation.

        Raises:
            PoolRefused: on the first step, as `admit`; or `WORKER_CRASHED`, it kills workers.
        """

    def status(self) -> PoolStatus:
        """What the pool and each worker is doing; never asks a worker."""

    async def close(self) -> None:
        """End every generation and question (``shutting_down``), and every worker process."""
