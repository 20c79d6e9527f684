"""The times of a generation."""

from dataclasses import dataclass

TEXT_GAP_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds by which the gaps between two pieces of text are counted."""


@dataclass(frozen=True, slots=True)
class Times:
    """What became of a generation, as the pool that ran it saw it; times are seconds."""

    #: from its admission until it was given to the worker that ran it last; None if none did
    queue_s: float | None
    #: from its admission to its first token; None if there was none
    first_s: float | None
    #: from its admission to its end
    total_s: float
    #: the worker that ran it last
    worker_id: int | None
    #: how often it was given to a worker
    runs: int
    #: how many pieces of text came within each of `TEXT_GAP_BOUNDS_S` after the one before, but not
    #: within the bound before; the last for those that came later
    gap_counts: tuple[int, ...]
    #: the sum of those gaps
    gaps_s: float
