"""What a pool bears with before it does something about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a pool; as they are by default, only what hangs is ended.

    Attributes:
        start_timeout_s: seconds in which the model must be loaded; 0 for no bound.
        stall_timeout_s: seconds without progress after which a worker is replaced; 0 for no bound,
            None learns from the model's speed.
        max_worker_memory: bytes of private memory beyond which a worker is replaced; None for no
            bound.
        min_free_memory: bytes of free memory below which nothing new is taken; 0 for no bound.
        max_queue_seconds: the longest that a generation may be expected to wait; 0 for no bound.
    """

    start_timeout_s: float = 0.0
    stall_timeout_s: float | None = None
    max_worker_memory: int | None = None
    min_free_memory: int = 0
    max_queue_seconds: float = 0.0


NO_LIMITS = Limits()
"""Those of a pool that is given none."""
