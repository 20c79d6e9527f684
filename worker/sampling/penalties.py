"""Presence, frequency and repetition penalties, kept for the tokens seen and for no others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.sampling import SamplingParams

_FloatArray = NDArray[np.float32]


class Penalties:
    """The tokens of one generation, and what each costs.

    A token's entry changes when the token is drawn; nothing is built anew for each draw.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        """Begin after the token ids of ``prompt``, which only the repetition penalty looks at."""
        self._repetition = params.repetition_penalty
        # In 32 bits, as the logits are.
        self._presence = np.float32(params.presence_penalty)
        self._frequency = np.float32(params.frequency_penalty)
        seen = dict.fromkeys(prompt) if self._repetition != 1.0 else {}
        self._place = {token: place for place, token in enumerate(seen)}
        n = len(seen)
        self._allocate(2 * n + 64)
        self._ids[:n] = list(seen)
        self._counts[:n] = 0
        self._offsets[:n] = 0

    @classmethod
    def of(cls, params: SamplingParams, prompt: Sequence[int]) -> "Penalties | None":
        """The penalties of a generation; None if its parameters change no logit."""
        neutral = (1.0, 0.0, 0.0)
        wanted = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        return None if wanted == neutral else cls(params, prompt)

    def apply(self, logits: _FloatArray) -> None:
        """Change the logits of the tokens seen, in place; shape ``(n_vocab,)``."""
        n = len(self._place)
        if n == 0:
            return
        ids, values = self._ids[:n], self._values[:n]
        logits.take(ids, out=values, mode="clip")
        if self._repetition != 1.0:
            is_positive = np.greater(values, 0, out=self._is_positive[:n])
            lower = np.divide(values, self._repetition, out=self._lower[:n])
            np.multiply(values, self._repetition, out=values)
            np.copyto(values, lower, where=is_positive)
        np.subtract(values, self._offsets[:n], out=values)
        logits[ids] = values

    def add(self, token: int) -> None:
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._grow()
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += 1
        self._offsets[place] = self._presence + self._frequency * self._counts[place]

    def _allocate(self, capacity: int) -> None:
        self._ids = np.empty(capacity, np.int64)
        self._counts = np.empty(capacity, np.float32)
        self._offsets = np.empty(capacity, np.float32)
        self._values = np.empty(capacity, np.float32)
        self._lower = np.empty(capacity, np.float32)
        self._is_positive = np.empty(capacity, np.bool_)

    def _grow(self) -> None:
        ids, counts, offsets = self._ids, self._counts, self._offsets
        n = len(ids)
        self._allocate(2 * n)
        self._ids[:n], self._counts[:n], self._offsets[:n] = ids, counts, offsets
