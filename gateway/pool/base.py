"""The pool as the routes see it: a generation goes in, its events come out."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from shared.errors import ErrorCode
from shared.messages import Event, Failed, Generate, ModelInfo, Prepared, Question


class PoolRefused(Exception):
    """A generation that the pool did not take, or a question that it has no answer to.

    Nothing of the generation has reached a worker.

    Attributes:
        code: `ErrorCode.QUEUE_FULL`, `MODEL_LOADING`, `MODEL_UNAVAILABLE`, `SHUTTING_DOWN`,
            `INSUFFICIENT_MEMORY` or, for a request that kills workers, `WORKER_CRASHED`; of a
            question also `QUEUE_TIMEOUT` and `BODY_TOO_LARGE`.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, code: ErrorCode, message: str, retry_after: int) -> None:
        """Refuse for the reason ``code``; ``message`` is for the client."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Terms:
    """On which a generation is taken.

    Attributes:
        is_whole: its consumer wants nothing before the end. Then it has emitted nothing before the
            end either, and is run again whenever its worker dies.
        deadline_s: when it fails with `ErrorCode.REQUEST_TIMEOUT` unless it has ended, by
            `time.monotonic`; None for never.
        queue_timeout_s: seconds it may wait for a worker, until it fails with
            `ErrorCode.QUEUE_TIMEOUT`; None for no bound.
    """

    is_whole: bool = False
    deadline_s: float | None = None
    queue_timeout_s: float | None = None


DEFAULT_TERMS = Terms()
"""Without any bound."""

TEXT_GAP_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds by which the gaps between two pieces of text are counted."""


@dataclass(slots=True)
class GenerationRecord:
    """What becomes of a generation; the pool writes it, whoever asked for that may read it.

    Attributes:
        submitted_s: when the pool took it, by `time.monotonic`; None if it did not.
        started_s: when it was given to the worker that ran it last.
        first_s: when the first token was there.
        ended_s: when it ended.
        worker_id: the worker that ran it last.
        runs: how often it was given to a worker.
        prompt_tokens: tokens in the prompt.
        cached_tokens: how many of them were in the worker's KV cache.
        completion_tokens: tokens generated; if it was cut short, those whose text has come.
        prefill_ms: how long it took to evaluate the rest of the prompt.
        decode_ms: how long all tokens after that took.
        gap_counts: how many pieces of text came within each of `TEXT_GAP_BOUNDS_S` after the one
            before, but not within the bound before; the last for those that came later.
        gaps_s: the sum of those gaps in seconds.
        outcome: the finish reason, ``cancelled``, or the code of the error; empty while it runs.
    """

    submitted_s: float | None = None
    started_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    worker_id: int | None = None
    runs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    gap_counts: list[int] = field(default_factory=lambda: [0] * (len(TEXT_GAP_BOUNDS_S) + 1))
    gaps_s: float = 0.0
    outcome: str = ""


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
        memory_bytes: its private memory when it was last measured; None if it has not been.
    """

    worker_id: int
    state: Literal["starting", "idle", "running", "failed"]
    pid: int | None
    restarts: int
    reason: str | None = None
    cached_tokens: int = 0
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


@dataclass(frozen=True, slots=True)
class Totals:
    """What there has been since the start.

    Attributes:
        prompt_tokens: tokens in prompts.
        cached_tokens: how many of them were in a KV cache.
        completion_tokens: tokens generated.
        evictions: conversations that were lost from a KV cache since another took its place.
        deaths: how many worker processes have died, by the value of `gateway.pool.death.Cause`;
            causes that have not occurred are left out.
        quarantined: how many requests were put into quarantine since they kill workers.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    evictions: int = 0
    deaths: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0


State: TypeAlias = Literal["starting", "ready", "failed", "closing"]


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What each request has to know of the pool; cheap however many workers there are.

    It costs the same for any number of them until all slots run; then it is a sum over those.

    Attributes:
        state: ``ready`` means at least one worker has its model.
        reason: why the state is ``failed``, or why nothing new is taken though it is ``ready``;
            else None.
        model: the loaded model, once a worker has reported it.
        idle: how many generations could start now.
        waiting: generations in the backlog.
        max_queue: the most that may wait.
        retry_after_s: seconds until there may be room again, if there is none now.
    """

    state: State
    reason: str | None
    model: ModelInfo | None
    idle: int
    waiting: int
    max_queue: int
    retry_after_s: int = 5


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool at this moment.

    Attributes:
        state: ``ready`` means at least one worker has its model.
        reason: why the state is ``failed``, or why nothing new is taken though it is ``ready``;
            else None.
        model: the loaded model, once a worker has reported it.
        workers: one entry for each worker.
        waiting: generations in the backlog.
        max_queue: the most that may wait.
        slots: how many may run at the same time; None if as many as there are workers.
        zygote: what workers are forked from.
        totals: what there has been since the start.
    """

    state: State
    reason: str | None
    model: ModelInfo | None
    workers: tuple[WorkerStatus, ...]
    waiting: int
    max_queue: int
    slots: int | None = None
    zygote: ZygoteStatus = ZygoteStatus()
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

    def generate(
        self,
        request: Generate,
        terms: Terms = DEFAULT_TERMS,
        record: GenerationRecord | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run one generation: ``Prefilled, Delta*``, then one terminal event, then the end.

        Admission happens when the first event is asked for. Closing the generator cancels the
        generation.

        Args:
            request: what to generate.
            terms: how long it may take, and what may be done when a worker dies.
            record: where to note what becomes of it.

        Raises:
            PoolRefused: on the first step, if the generation is not taken.
        """

    async def prepare(self, question: Question) -> Prepared | Failed:
        """Answer a question about a prompt or about tokens; it never waits behind a generation.

        Cancelling it forgets the question.

        Raises:
            PoolRefused: there is no answer.
        """

    def load(self) -> PoolLoad:
        """The part of the status that each request has to know."""

    def status(self) -> PoolStatus:
        """What the pool and each worker is doing; never asks a worker."""

    async def close(self) -> None:
        """End every generation and question (``shutting_down``), and every worker process."""
