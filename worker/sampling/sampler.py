"""Draws the next token from the logits, vectorised over the vocabulary."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.sampling import SamplingParams
from worker.sampling.penalties import Penalties
from worker.sampling.top_k import TopK, require_finite

_FloatArray = NDArray[np.float32]
_IntArray = NDArray[np.int64]

# Logits divided by less leave the range of 32-bit floats; the draw would be the same anyway.
_GREEDY_BELOW = 1e-5
# A nucleus of more tokens than this is found without a loop over them.
_MOST_LOOPED = 256
# So few tokens that may be drawn are looked at by themselves.
_FEW = 4096


class Sampler:
    """The state of one generation's sampling: its parameters, its RNG and the tokens seen.

    The order is that of Hugging Face's and vLLM's samplers: penalties, biases, temperature, top_k,
    top_p, min_p, where top_p and min_p look at the probabilities that top_k has left.

    What a seed draws also follows from the order in which the tokens that are kept share out the
    range of a random number: the likeliest first where there is a nucleus (``top_p`` below 1),
    else the order of the ids, or that in which NumPy's partition leaves the ``top_k``.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        """Begin a generation after the token ids of ``prompt``."""
        self._params = params
        seed = None if params.seed is None else params.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed)).random
        self._penalties = Penalties.of(params, prompt)
        self._is_greedy = params.temperature < _GREEDY_BELOW
        if not self._is_greedy:
            self._per_degree = np.float32(1 / params.temperature)
        # As NumPy compares it with 32-bit floats.
        self._min_p = float(np.float32(params.min_p))
        self._top_k = TopK(params.top_k)
        self._bias_ids = np.array([token for token, _ in params.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in params.logit_bias], np.float32)
        self._scratch: _FloatArray = np.empty(0, np.float32)

    def sample(self, logits: _FloatArray, allowed: NDArray[np.bool_] | None = None) -> int:
        """Draw one token id, of those that are ``allowed``, at least one; None for all.

        Penalties, biases and the mask are applied to the logits in place.

        Raises:
            EngineError: the logits hold no finite maximum, so that nothing can be drawn.
        """
        if self._penalties is not None:
            self._penalties.apply(logits)
        if len(self._bias_ids):
            logits[self._bias_ids] += self._biases
        token = self._draw(logits) if allowed is None else self._draw_allowed(logits, allowed)
        if self._penalties is not None:
            self._penalties.add(token)
        return token

    def _draw_allowed(self, logits: _FloatArray, allowed: NDArray[np.bool_]) -> int:
        n_allowed = np.count_nonzero(allowed)
        if n_allowed == 1:
            return int(allowed.argmax())
        if n_allowed <= _FEW:
            ids = allowed.nonzero()[0]
            return int(ids[self._draw(logits[ids])])
        np.copyto(logits, -np.inf, where=~allowed)
        token = self._draw(logits)
        # What is ruled out weighs nothing, but rounding can carry a draw past the last that does.
        return token if allowed[token] else int(logits.argmax())

    def _draw(self, logits: _FloatArray) -> int:
        params, n_vocab = self._params, len(logits)
        if params.top_p < 1.0 and not self._is_greedy and self._top_k.suits(n_vocab):
            ids, values = self._top_k.largest(logits)
            return self._draw_from_sorted(ids, values)
        best = int(logits.argmax())
        require_finite(logits[best])  # argmax finds a NaN before any number
        if self._is_greedy:
            return best
        if 0 < params.top_k < n_vocab:
            ids = _largest(logits, params.top_k)
            return int(ids[self._draw_weighted(self._weights(logits[ids], logits[best]))])
        return self._draw_weighted(self._weights(logits, logits[best]))

    def _draw_from_sorted(self, ids: _IntArray, values: _FloatArray) -> int:
        """Draw one of a few ids, whose logits are in falling order."""
        weights = self._weights(values, values[0])
        if len(weights) > _MOST_LOOPED:
            return int(ids[self._draw_weighted(weights)])
        enough = self._params.top_p * float(weights.sum(dtype=np.float64))
        cumulative: list[float] = []
        mass = 0.0
        for weight in weights.tolist():
            if weight < self._min_p:
                break
            mass += weight
            cumulative.append(mass)
            if mass >= enough:
                break
        drawn = bisect_right(cumulative, self._random() * mass)
        return int(ids[min(drawn, len(cumulative) - 1)])

    def _draw_weighted(self, weights: _FloatArray) -> int:
        """Draw a place in ``weights``, of which the largest is 1."""
        params = self._params
        ids: _IntArray | None = None  # None: every place, in order
        enough = params.top_p * float(weights.sum(dtype=np.float64)) if params.top_p < 1.0 else 0.0
        if params.min_p > 0.0:
            ids = np.flatnonzero(weights >= params.min_p)
            weights = weights[ids]
        if params.top_p < 1.0:
            kept = _nucleus(weights, enough)
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
        cumulative = np.cumsum(weights, dtype=np.float64)
        drawn = int(np.searchsorted(cumulative, self._random() * cumulative[-1], side="right"))
        drawn = min(drawn, weights.size - 1)
        return drawn if ids is None else int(ids[drawn])

    def _weights(self, values: _FloatArray, highest: np.float32) -> _FloatArray:
        """Weights, not probabilities: the largest is 1. Valid until the next call."""
        n = len(values)
        if n > len(self._scratch):
            self._scratch = np.empty(n, np.float32)
        weights = self._scratch[:n]
        with np.errstate(over="ignore"):  # what is too far below the largest weighs nothing
            np.subtract(values, highest, out=weights)
            np.multiply(weights, self._per_degree, out=weights)
        return np.exp(weights, out=weights)


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
