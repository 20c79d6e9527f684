"""What the schedule is made of: what waits, where it can run, what is to be done. Data only."""

from dataclasses import dataclass

from gateway.pool.prefix import Prefix
from shared.messages import Generate


@dataclass(slots=True, eq=False)
class Waiting:
    """A generation in the backlog.

    Attributes:
        request: the generation.
        prefix: its prompt.
        expected_ms: how long it is expected to take.
        passed_since_s: since when it could have started, but waited for a worker that suits it.
    """

    request: Generate
    prefix: Prefix
    expected_ms: float = 0.0
    passed_since_s: float | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """A worker that is free or runs a generation.

    Attributes:
        born: what its cache held at first.
        cached: what it holds now; of a running one, what it held before.
    """

    born: Prefix
    cached: Prefix

    @property
    def is_blank(self) -> bool:
        """Whether it has never run a generation."""
        return self.cached is self.born

    def is_continued(self, shared: int) -> bool:
        """Whether a prompt that shares so much begins with the whole prompt of the cache."""
        return self.is_blank or shared >= self.cached.prompt_length


@dataclass(slots=True, eq=False)
class Running:
    """A generation that runs.

    Attributes:
        worker_id: where.
        worker: the same worker.
        prefix: its prompt.
        shared: how many tokens of that the worker had cached.
        started_s: when it started.
        expected_ms: how long it was expected to take then.
        awaited_by: the request that waits for its worker, if one does.
    """

    worker_id: int
    worker: Worker
    prefix: Prefix
    shared: int
    started_s: float
    expected_ms: float
    awaited_by: str | None = None

    def remaining_ms(self, now_s: float) -> float:
        """How much longer it is expected to take."""
        ran_ms = (now_s - self.started_s) * 1000
        # One that has taken longer than expected may take longer still.
        return max(self.expected_ms - ran_ms, ran_ms / 2)


@dataclass(frozen=True, slots=True)
class Start:
    """Start a generation.

    Attributes:
        request: which.
        worker_id: where.
        prefix: its prompt.
    """

    request: Generate
    prefix: Prefix
    worker_id: int
