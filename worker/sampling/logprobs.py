"""Log probabilities of tokens, by the distribution that the model itself gives."""

import math

import numpy as np
from numpy.typing import NDArray

from shared.logprobs import Candidate, TokenLogprobs
from worker.engines.base import Engine
from worker.sampling.top_k import TopK, require_finite

_FloatArray = NDArray[np.float32]

# What JSON cannot say, it is near enough; OpenAI's API has the same number for it.
_LEAST = -9999.0


class Logprobs:
    """Tells how likely tokens are, and which are the likeliest.

    It looks at the logits as the model gave them: before temperature, penalties and biases, before
    any token is ruled out. So the numbers do not depend on how a token is drawn.
    """

    def __init__(self, engine: Engine, n_top: int) -> None:
        """Tell of the ``n_top`` likeliest tokens each time; 0 for none."""
        self._engine = engine
        self._n_top = min(n_top, engine.info.n_vocab)
        self._top_k = TopK(self._n_top)
        # Less the highest of them, which needs no pass more than a copy does.
        self._logits: _FloatArray = np.empty(0, np.float32)
        self._weights: _FloatArray = np.empty(0, np.float32)
        self._log_sum = 0.0
        self._top: tuple[Candidate, ...] = ()

    def look(self, logits: _FloatArray) -> None:
        """Take in the logits of the next token, shape ``(n_vocab,)``; they are copied.

        Raises:
            EngineError: they hold no finite maximum, so that there are no probabilities.
        """
        if len(self._logits) != len(logits):
            self._logits, self._weights = np.empty_like(logits), np.empty_like(logits)
        ids, highest = self._likeliest(logits)
        with np.errstate(over="ignore"):  # what is too far below the largest weighs nothing
            np.subtract(logits, highest, out=self._logits)
        np.exp(self._logits, out=self._weights)
        self._log_sum = math.log(float(self._weights.sum()))
        pairs = zip(ids.tolist(), self._logits[ids].tolist(), strict=True)
        self._top = tuple([self._candidate(token, logit) for token, logit in pairs])

    def of(self, token: int) -> TokenLogprobs:
        """What there is to say of ``token`` where it was looked last."""
        return TokenLogprobs(self._candidate(token, float(self._logits[token])), self._top)

    def unlooked(self, token: int) -> TokenLogprobs:
        """A token that nothing comes before, so that nothing says how likely it is."""
        raw, is_control = self._raw(token)
        return TokenLogprobs(Candidate(raw, None, is_control))

    def _likeliest(self, logits: _FloatArray) -> tuple[NDArray[np.int64], np.float32]:
        """The ids of the likeliest tokens, the likeliest first, and the highest logit."""
        if self._top_k.suits(len(logits)):
            ids, values = self._top_k.largest(logits)
            return ids, values[0]
        highest = logits.max()
        require_finite(highest)
        if not self._n_top:
            return np.empty(0, np.int64), highest
        return np.argsort(-logits, kind="stable")[: self._n_top], highest

    def _candidate(self, token: int, logit: float) -> Candidate:
        raw, is_control = self._raw(token)
        return Candidate(raw, max(_LEAST, logit - self._log_sum), is_control)

    def _raw(self, token: int) -> tuple[str, bool]:
        text = self._engine.token_bytes(token)
        is_control = not text
        return (text or self._engine.token_name(token).encode()).decode("latin-1"), is_control
