"""Finds the beginning that prompts keep having in common. Data only, no clock, no I/O."""

from collections import deque
from dataclasses import dataclass

from gateway.pool.prefix import Prefix

# Prompts that are remembered, and of how many of them a prefix must be the beginning.
_REMEMBERED = 32
_OFTEN = 3
# So much more than the prefix that workers are born with now must a new one save to replace it.
_BETTER = 1.25
LEAST_TOKENS = 64
"""A shorter prefix is not worth a template of its own."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prompt that began a conversation.

    Attributes:
        prefix: its text.
        prompt: its parts, as `shared.messages.Generate` has them.
    """

    prefix: Prefix
    prompt: tuple[int, ...]


class PrefixLearner:
    """Remembers the prompts that continued no conversation, and what they have in common."""

    def __init__(self) -> None:
        """Remember nothing."""
        self._recent: deque[Arrival] = deque(maxlen=_REMEMBERED)

    def learn(
        self, arrival: Arrival, newborn: Prefix, chars_per_token: float
    ) -> tuple[Arrival, ...]:
        """Take note of a prompt.

        Args:
            arrival: the prompt.
            newborn: the prefix that workers are born with now.
            chars_per_token: characters to a token, about.

        Returns:
            Prompts whose common beginning workers should be born with from now on; nothing if
            there is no better than ``newborn``.
        """
        others = sorted(
            self._recent, key=lambda other: other.prefix.shared_length(arrival.prefix), reverse=True
        )
        self._recent.append(arrival)
        if len(others) < _OFTEN - 1:
            return ()
        samples = (arrival, *others[: _OFTEN - 1])
        length = samples[-1].prefix.shared_length(arrival.prefix)
        least_gain = LEAST_TOKENS * chars_per_token
        if length < least_gain:
            return ()
        would_save = saves = 0
        for each in self._recent:
            would_save += min(length, each.prefix.shared_length(arrival.prefix))
            saves += newborn.shared_length(each.prefix)
        if would_save < _BETTER * saves or would_save - saves < _OFTEN * least_gain:
            return ()
        return samples
