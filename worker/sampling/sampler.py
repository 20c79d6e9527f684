"""Draws the next token from the logits, vectorised over the vocabulary."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.sampling import SamplingParams
from worker.sampling import rejection
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
# In a larger vocabulary a partition takes ten times as long as `TopK`: 2 ms of 262,144 logits.
_LARGE = 65_536
# How many weights are added up before those of one such block are looked at one by one.
_BLOCK = 512


class Sampler:
    """The state of one generation's sampling: its parameters, its RNG and the tokens seen.

    The order is that of Hugging Face's and vLLM's samplers: penalties, biases, temperature, top_k,
    top_p, min_p, where top_p and min_p look at the probabilities that top_k has left.

    What a seed draws also follows from the order in which the tokens that are kept share out the
    range of a random number: the likeliest first where there is a nucleus (``top_p`` below 1), and
    for any ``top_k`` where the vocabulary has more than 65,536 tokens; else the order of the ids,
    or that in which NumPy's partition leaves the ``top_k``. Of equally likely tokens those with the
    lower ids are kept. Where nothing is ruled out, such a vocabulary is drawn from by `rejection`.
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
        self._is_plain = (params.top_k, params.top_p, params.min_p) == (0, 1.0, 0.0)
        self._is_plain = self._is_plain and not self._is_greedy
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
        is_sorted = params.top_p < 1.0 or n_vocab > _LARGE
        if is_sorted and not self._is_greedy and self._top_k.suits(n_vocab):
            ids, values = self._top_k.largest(logits)
            return self._draw_from_sorted(ids, values)
        if self._is_plain and n_vocab > _LARGE:
            return rejection.draw(logits, self._per_degree, self._random)
        best = int(logits.argmax())
        highest = logits[best]
        require_finite(highest)  # argmax finds a NaN before any number
        if self._is_greedy:
            return best
        if 0 < params.top_k < n_vocab:
            ids = _largest(logits, params.top_k)
        elif params.min_p > 0.0 and params.top_p == 1.0:
            ids = np.flatnonzero(logits >= self._bound(float(highest)))
        else:
            return self._draw_weighted(self._weights(logits, highest))
        return int(ids[self._draw_weighted(self._weights(logits[ids], highest))])

    def _bound(self, highest: float) -> np.float32:
        """A logit that no token which ``min_p`` keeps is below, by a little more than rounding."""
        log_min_p, temperature = math.log(self._params.min_p), self._params.temperature
        rounding = 1e-5 * temperature * (1 - log_min_p) + 1e-6 * abs(highest)
        lowest = -float(np.finfo(np.float32).max)
        return np.float32(max(lowest, highest + temperature * log_min_p - rounding))

    def _draw_from_sorted(self, ids: _IntArray, values: _FloatArray) -> int:
        """Draw one of a few ids, whose logits are in falling order."""
        weights = self._weights(values, values[0])
        if len(weights) > _MOST_LOOPED:
            return int(ids[self._draw_weighted(weights)])
        looped: list[float] = weights.tolist()
        enough = self._params.top_p * sum(looped) if self._params.top_p < 1.0 else math.inf
        cumulative: list[float] = []
        mass = 0.0
        for weight in looped:
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
        mass, least = math.inf, params.min_p
        if params.top_p < 1.0:
            total = float(weights.sum(dtype=np.float64))
            mass = params.top_p * total
            # All that weigh less make up less than what the nucleus leaves, with room for rounding.
            least = max(least, 0.99 * (total - mass) / weights.size)
        if least > 0.0:
            ids = np.flatnonzero(weights >= least)
            weights = weights[ids]
        if params.top_p < 1.0:
            kept = _nucleus(weights, mass)
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
        drawn = _place(weights, self._random())
        return drawn if ids is None else int(ids[drawn])

    def _weights(self, values: _FloatArray, highest: np.float32) -> _FloatArray:
        """Weights, not probabilities: the largest is 1. Valid until the next call."""
        n = len(values)
        if n > len(self._scratch):
            self._scratch = np.empty(n, np.float32)
        weights = self._scratch[:n]
        with np.errstate(over="ignore"):  # what is too far below the largest weighs nothing
            np.subtract(values, highest, out=weights)
            if self._per_degree != 1:
                np.multiply(weights, self._per_degree, out=weights)
        return np.exp(weights, out=weights)


def _place(weights: _FloatArray, number: float) -> int:
    """The place in ``weights`` that a number between 0 and 1 draws."""
    n_blocks, first = weights.size // _BLOCK, 0
    if n_blocks > 1:
        # To add up a block takes a sixth of the time that all its partial sums take.
        begins = np.arange(0, n_blocks * _BLOCK, _BLOCK)
        sums = np.cumsum(np.add.reduceat(weights, begins, dtype=np.float64))
        drawn = number * float(sums[-1])
        block = min(int(np.searchsorted(sums, drawn, side="right")), n_blocks - 1)
        drawn -= float(sums[block - 1]) if block else 0.0
        first = block * _BLOCK
        weights = weights[first : first + _BLOCK] if block < n_blocks - 1 else weights[first:]
        cumulative = np.cumsum(weights, dtype=np.float64)
    else:
        cumulative = np.cumsum(weights, dtype=np.float64)
        drawn = number * float(cumulative[-1])
    place = int(np.searchsorted(cumulative, drawn, side="right"))
    if place == weights.size:  # by rounding; what is last may weigh nothing
        place = int(np.searchsorted(cumulative, cumulative[-1]))
    return first + place


def _largest(values: _FloatArray, k: int) -> _IntArray:
    """Indices of the ``k`` largest values, in no particular order; of equal ones the first."""
    ids = np.argpartition(values, values.size - k)[values.size - k :]
    candidates = np.flatnonzero(values >= values[ids].min())
    if len(candidates) == k:
        return ids
    return candidates[np.argsort(-values[candidates], kind="stable")[:k]]


def _nucleus(weights: _FloatArray, mass: float) -> _IntArray:
    """Indices of the largest weights that together reach ``mass``, largest first.

    A peaked distribution needs few of them, whatever the size of the vocabulary.
    """
    top_k = TopK(128)
    if top_k.suits(weights.size):
        ids, largest = top_k.largest(weights)
        cumulative = np.cumsum(largest, dtype=np.float64)
        if cumulative[-1] >= mass:
            return ids[: int(np.searchsorted(cumulative, mass)) + 1]
    ids = np.argsort(-weights, kind="stable")
    cumulative = np.cumsum(weights[ids], dtype=np.float64)
    return ids[: int(np.searchsorted(cumulative, mass)) + 1]
