"""Draws the next token from the logits, vectorised over the vocabulary."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.sampling import SamplingParams

_FloatArray = NDArray[np.float32]
_IntArray = NDArray[np.int64]

# Logits divided by less leave the range of 32-bit floats; the draw would be the same anyway.
_GREEDY_BELOW = 1e-5


class Sampler:
    """The state of one generation's sampling: its parameters, its RNG and the tokens seen.

    The order is that of Hugging Face's and vLLM's samplers: penalties, temperature, top_k, top_p,
    min_p, where top_p and min_p look at the probabilities that top_k has left.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        """Begin a generation after the token ids of ``prompt``."""
        self._params = params
        seed = None if params.seed is None else params.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed)).random
        self._generated: Counter[int] = Counter()
        self._seen = set(prompt) if params.repetition_penalty != 1.0 else set()
        self._penalizes = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )

    def sample(self, logits: _FloatArray) -> int:
        """Draw one token id.

        Args:
            logits: shape ``(n_vocab,)``; penalties are applied to it in place.

        Raises:
            EngineError: the logits hold no finite maximum, so that nothing can be drawn.
        """
        if self._penalizes:
            self._penalize(logits)
        token = self._draw(logits)
        if self._penalizes:
            self._generated[token] += 1
            self._seen.add(token)
        return token

    def _penalize(self, logits: _FloatArray) -> None:
        params = self._params
        if params.repetition_penalty != 1.0 and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            values = logits[ids]
            logits[ids] = np.where(
                values > 0, values / params.repetition_penalty, values * params.repetition_penalty
            )
        if self._generated:
            n = len(self._generated)
            ids = np.fromiter(self._generated.keys(), np.int64, n)
            counts = np.fromiter(self._generated.values(), np.float32, n)
            logits[ids] -= params.presence_penalty + params.frequency_penalty * counts

    def _draw(self, logits: _FloatArray) -> int:
        params = self._params
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):  # argmax finds a NaN before any number
            raise EngineError("the model's logits are not finite")
        if params.temperature < _GREEDY_BELOW:
            return best

        ids: _IntArray | None = None  # None: every id, in order
        if 0 < params.top_k < logits.size:
            ids = _largest(logits, params.top_k)
            logits = logits[ids]
        # Weights, not probabilities: the largest is 1, and `mass` is what they add up to.
        with np.errstate(over="ignore"):  # what is too far below the largest weighs nothing
            weights = np.exp((logits - logits.max()) * np.float32(1 / params.temperature))
        mass = float(weights.sum(dtype=np.float64))
        if params.min_p > 0.0:
            kept = np.flatnonzero(weights >= params.min_p)
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
        if params.top_p < 1.0:
            kept = _nucleus(weights, params.top_p * mass)
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
        cumulative = np.cumsum(weights, dtype=np.float64)
        drawn = int(np.searchsorted(cumulative, self._random() * cumulative[-1], side="right"))
        drawn = min(drawn, weights.size - 1)
        return drawn if ids is None else int(ids[drawn])


def _largest(values: _FloatArray, k: int) -> _IntArray:
    """Indices of the ``k`` largest values, in no particular order."""
    return np.argpartition(values, values.size - k)[values.size - k :]


def _nucleus(weights: _FloatArray, mass: float) -> _IntArray:
    """Indices of the largest weights that together reach ``mass``, largest first.

    Only as many weights are sorted as it takes: a peaked distribution needs few of them, whatever
    the size of the vocabulary.
    """
    k = 128
    while True:
        ids = _largest(weights, k) if k < weights.size else np.arange(weights.size)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        cumulative = np.cumsum(weights[ids], dtype=np.float64)
        if cumulative[-1] >= mass or k >= weights.size:
            return ids[: int(np.searchsorted(cumulative, mass)) + 1]
        k *= 8
