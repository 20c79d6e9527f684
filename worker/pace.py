"""How much of prompts a step may evaluate beside what decodes, by what steps have taken before.

On some machines a row costs the same in any batch; on others the weights have to be read anyway,
and thirty more rows cost as much as one. So nothing is assumed: the times of the steps themselves
say what they take without prompts, and what a row of a prompt adds.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Protocol, TypeVar

# A gap between tokens grows to so many times its usual length, which leaves room for noise below
# the 2.5 that are promised.
_STRETCH = 2.1
# Steps so short are not worth a bound: nobody sees their gaps.
_LEAST_S = 0.002
# The usual step is the median of so many.
_REMEMBERED = 9
# After so many steps with prompts there is one without, so that the usual one is still known.
_MIXED_IN_A_ROW = 32
# What the next step leaves of the weight that a step has in the cost of a row.
_KEPT = 0.8
# Prompts that arrive within so many seconds wait for one another by their lengths.
_TOGETHER_S = 2.0


class Pace:
    """What steps cost with one number of threads."""

    def __init__(self) -> None:
        # By the number of rows that decode: seconds of steps without prompts, and how many steps
        # with prompts there have been since.
        self._usual: dict[int, deque[float]] = {}
        self._mixed: dict[int, int] = {}
        # Seconds, and the rows of prompts that took them: beside others that decode, and alone.
        self._beside = (0.0, 0.0)
        self._alone = (0.0, 0.0)

    def learn(self, n_decoding: int, n_prompt: int, took_s: float) -> None:
        """Take note of a step with so many rows of both kinds."""
        if not n_prompt:
            self._usual.setdefault(n_decoding, deque(maxlen=_REMEMBERED)).append(took_s)
            self._mixed[n_decoding] = 0
        elif not n_decoding:
            self._alone = _followed(self._alone, took_s, n_prompt)
        elif n_decoding in self._usual:
            self._mixed[n_decoding] += 1
            more_s = max(0.0, took_s - median(self._usual[n_decoding]))
            self._beside = _followed(self._beside, more_s, n_prompt)

    def room(self, n_decoding: int) -> int | None:
        """How many rows of prompts fit into a step beside ``n_decoding`` rows that decode.

        Returns:
            None if there is no bound. 0 if steps without prompts have not been timed lately: the
            next step then is one of these.
        """
        if not n_decoding:
            return None
        if self._mixed.get(n_decoding, _MIXED_IN_A_ROW) >= _MIXED_IN_A_ROW:
            return 0
        seconds, rows = self._beside if self._beside[1] else self._alone
        if not rows:
            return n_decoding
        usual_s = median(self._usual[n_decoding])
        more_s = max(_LEAST_S, _STRETCH * usual_s) - usual_s
        return None if seconds <= 0 else max(1, int(more_s * rows / seconds))


def _followed(cost: tuple[float, float], seconds: float, rows: int) -> tuple[float, float]:
    return cost[0] * _KEPT + seconds, cost[1] * _KEPT + rows


class Waiting(Protocol):
    """A prompt of which something is to be evaluated."""

    arrived_s: float
    pending: list[int]


_Waiting = TypeVar("_Waiting", bound=Waiting)


def in_turn(prompts: Sequence[_Waiting]) -> list[_Waiting]:
    """Who has what room there is: of those that arrived together the shortest first.

    None starves: nobody who arrived more than `_TOGETHER_S` after the oldest is before it.
    """
    left, turns = sorted(prompts, key=lambda prompt: prompt.arrived_s), list[_Waiting]()
    while left:
        last_s = left[0].arrived_s + _TOGETHER_S
        together = [prompt for prompt in left if prompt.arrived_s <= last_s]
        turns += sorted(together, key=lambda prompt: len(prompt.pending))
        left = left[len(together) :]
    return turns
