"""Whether a server answers in every part of a campaign; one that refuses everything does not."""

from dataclasses import dataclass, field

PART_S = 15.0
"""As long as from burst to burst, so that each part has one."""
LEAST_SHARE = 0.1
"""Of the requests that could be answered, those that must be, in every part.

With bursts that fill the queue a real model on two cores answers a fifth of them and more, the echo
engine two thirds; a pool that has lost its workers answers none.
"""


@dataclass(slots=True)
class Parts:
    """Counts the requests of clients that ask all the time and stay, without bounds of their own.

    Attributes:
        seconds: how long the traffic lasts.
        asked: how many of these requests have ended, by part.
        answered: how many of them with their text, by part.
    """

    seconds: float
    asked: list[int] = field(init=False)
    answered: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing; a rest that is shorter than a part belongs to the last one."""
        n = max(1, int(self.seconds // PART_S))
        self.asked, self.answered = [0] * n, [0] * n

    def note(self, at_s: float, is_answered: bool) -> None:
        """Take note of a request that ended so many seconds after the traffic began."""
        part = min(len(self.asked) - 1, int(at_s // PART_S))
        self.asked[part] += 1
        self.answered[part] += is_answered

    @property
    def shares(self) -> list[float]:
        """The share of the answered, by part; 0 where nothing has ended."""
        return [n / max(1, asked) for n, asked in zip(self.answered, self.asked, strict=True)]

    def violations(self) -> list[str]:
        """The parts in which too few were answered."""
        return [
            f"from {part * PART_S:g} s on only {self.answered[part]} of {self.asked[part]} requests"
            f" were answered, and {LEAST_SHARE:.0%} must be"
            for part, share in enumerate(self.shares)
            if share < LEAST_SHARE
        ]
