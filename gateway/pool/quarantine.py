"""Requests that kill the worker that runs them, so that nobody can end all workers with one.

Data only, no clock.
"""

import hashlib
from dataclasses import replace

from shared.messages import Generate

# Of workers that have run equal requests, where none of the requests has met with two.
_DEATHS = 3
_PERIOD_S = 300.0
_MOST = 256


class Quarantine:
    """Remembers for a while what was running when a worker died of itself.

    Attributes:
        total: how many requests have been put into quarantine since the start.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.total = 0
        # Fingerprint -> deaths, and until when it is remembered; the oldest first.
        self._deaths: dict[bytes, tuple[int, float]] = {}

    def note_death(self, request: Generate, now_s: float, *, is_proof: bool) -> None:
        """A worker has died that ran ``request``.

        Args:
            request: what it ran.
            now_s: what the clock says; any that only goes forward.
            is_proof: whether this is enough, without others, to put the request into quarantine.
        """
        key = _fingerprint(request)
        before = self._count(key, now_s)
        deaths = max(before + 1, _DEATHS) if is_proof else before + 1
        self._deaths.pop(key, None)
        self._deaths[key] = deaths, now_s + _PERIOD_S
        if len(self._deaths) > _MOST:
            del self._deaths[next(iter(self._deaths))]
        self.total += before < _DEATHS <= deaths

    def note_success(self, request: Generate) -> None:
        """A worker has lived through ``request``, so it was not the request."""
        if self._deaths:
            self._deaths.pop(_fingerprint(request), None)

    def holds(self, request: Generate, now_s: float) -> bool:
        """Whether ``request`` is not to be run."""
        return bool(self._deaths) and self._count(_fingerprint(request), now_s) >= _DEATHS

    def _count(self, key: bytes, now_s: float) -> int:
        deaths, until_s = self._deaths.get(key, (0, 0.0))
        return deaths if now_s < until_s else 0


def _fingerprint(request: Generate) -> bytes:
    """The same for requests that make a worker do the same."""
    what = replace(request, request_id="", trace_id="")
    return hashlib.blake2b(repr(what).encode("utf-8", "backslashreplace"), digest_size=16).digest()
