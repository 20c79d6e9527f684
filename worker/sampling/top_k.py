"""The k largest of a vocabulary's logits, without a pass that orders more than it must."""

import math

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError

_FloatArray = NDArray[np.float32]
_IntArray = NDArray[np.int64]

# Of so many logits the maximum is taken together, and of so many of these once more: 262,144 logits
# take 55 us, where groups of 64 and one level take 105, and a partition of all takes 2,000.
GROUP = 32
_GROUP_OF_GROUPS = 8


class TopK:
    """Finds the largest logits by the maxima of groups of them.

    The ``k``-th largest maximum is at most the ``k``-th largest logit, since each maximum is a
    logit of its own. So the groups whose maximum is not below it hold the ``k`` largest, and little
    more than these is not below it. The one pass over the vocabulary is of the kind that processors
    are fastest at. The arrays are allocated once.
    """

    def __init__(self, k: int) -> None:
        """Look for ``k`` logits; 0 or less means that nobody will ask."""
        self._k = k
        self._n_vocab = 0
        self._maxima: _FloatArray = np.empty(0, np.float32)
        self._upper: _FloatArray = np.empty(0, np.float32)

    def suits(self, n_vocab: int) -> bool:
        """Whether so many logits make groups enough for this way to be the faster one."""
        n_groups = n_vocab // GROUP
        return n_groups >= 2 * GROUP and 0 < self._k <= n_groups // 2

    def largest(self, logits: _FloatArray) -> tuple[_IntArray, _FloatArray]:
        """The ids of the ``k`` largest logits, and these; the largest first, equal ones by id.

        Only of a vocabulary that this `suits`.

        Raises:
            EngineError: the logits hold no finite maximum.
        """
        n_groups = len(logits) // GROUP
        if len(logits) != self._n_vocab:
            self._n_vocab = len(logits)
            self._maxima = np.empty(n_groups, np.float32)
            self._upper = np.empty(n_groups // _GROUP_OF_GROUPS, np.float32)
        maxima_of_groups(logits, self._maxima)
        least = self._bound()
        groups = (self._maxima >= least).nonzero()[0]
        # A group is a column, so row by row the ids go up.
        n_grouped = n_groups * GROUP
        candidates = logits[:n_grouped].reshape(GROUP, n_groups).take(groups, axis=1).ravel()
        if n_grouped < len(logits):
            candidates = np.concatenate((candidates, logits[n_grouped:]))
        places = (candidates >= least).nonzero()[0]
        values = candidates[places]
        order = np.negative(values).argsort(kind="stable")[: self._k]
        rows, columns = np.divmod(places[order], len(groups))
        ids = rows * n_groups + groups[columns]
        if n_grouped < len(logits):
            rest = places[order] - GROUP * len(groups)
            ids = np.where(rest >= 0, n_grouped + rest, ids)
        return ids, values[order]

    def _bound(self) -> np.float32:
        """What the ``k``-th largest logit is not below."""
        few = self._k > len(self._upper) // 2
        maxima = self._maxima.copy() if few else maxima_of_groups(self._maxima, self._upper)
        # Two places at once; the last shows what is no number, which is put behind all numbers.
        maxima.partition((len(maxima) - self._k, len(maxima) - 1))
        require_finite(maxima[-1])
        bound: np.float32 = maxima[len(maxima) - self._k]
        return bound


def maxima_of_groups(values: _FloatArray, maxima: _FloatArray) -> _FloatArray:
    """Fill ``maxima``, one for each group; the last values, too few for a row, join the first."""
    n_groups = len(maxima)
    n_rows = len(values) // n_groups
    # A group is a column, so that whole rows are compared with one another.
    rows = values[: n_rows * n_groups].reshape(n_rows, n_groups)
    np.maximum.reduce(rows, axis=0, out=maxima)
    if n_rest := len(values) - n_rows * n_groups:
        np.maximum(maxima[:n_rest], values[-n_rest:], out=maxima[:n_rest])
    return maxima


def require_finite(highest: np.float32) -> None:
    """Check the maximum of the logits.

    Raises:
        EngineError: it is an infinity or no number, so that no token can be drawn.
    """
    if not math.isfinite(highest):
        raise EngineError("the model's logits are not finite")
