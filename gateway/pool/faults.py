"""Who is to blame for a death, and what runs again. Data only, no clock."""

import hashlib
from dataclasses import replace

from gateway.pool.deaths import Death
from gateway.pool.job import Job
from shared.errors import ErrorCode
from shared.messages import Generate

_MOST_CRASHES = 1
MOST_KILLS = 10
"""So often a job runs again whose worker was ended by somebody outside."""
# Workers that have died of equal requests, where none of the requests has met with two.
_DEATHS = 3
_PERIOD_S = 300.0
_MOST_REMEMBERED = 256

KILLS_WORKERS = (
    "worker processes have died again and again while they ran this request;"
    " for a while it is not taken any more"
)
"""What the client hears of a request in quarantine."""


class Quarantine:
    """Requests that kill the worker that runs them, so that nobody can end all workers with one."""

    def __init__(self) -> None:
        #: how many requests have been put into quarantine since the start
        self.total = 0
        # Fingerprint -> deaths, and until when it is remembered; the oldest first.
        self._deaths: dict[bytes, tuple[int, float]] = {}

    def note_death(self, request: Generate, now_s: float, *, is_proof: bool) -> None:
        """A worker has died that ran ``request`` and nothing else.

        Proof is enough, without others, to put the request into quarantine.
        """
        key = _fingerprint(request)
        before = self._count(key, now_s)
        deaths = max(before + 1, _DEATHS) if is_proof else before + 1
        self._deaths.pop(key, None)
        self._deaths[key] = deaths, now_s + _PERIOD_S
        if len(self._deaths) > _MOST_REMEMBERED:
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


def end_after(
    death: Death, job: Job, was_alone: bool, quarantine: Quarantine, now_s: float
) -> tuple[ErrorCode, str] | None:
    """Decide whether a job runs again; the death is noted in it.

    A crash says little about each of several jobs: they run again, alone in their worker, and only
    a death alone counts towards quarantine. The quarantine does not decide about this job, since
    others that are equal may have had bad luck.

    Returns:
        The error that it ends with; None if it is to run again.
    """
    if death.is_external:
        job.kills += 1
        is_last = job.kills > MOST_KILLS
    else:
        job.crashes += 1
        is_last = was_alone and job.crashes > _MOST_CRASHES
        if was_alone:
            quarantine.note_death(job.request, now_s, is_proof=is_last)
    if job.has_emitted or (is_last and not death.is_external):
        return ErrorCode.WORKER_CRASHED, f"the worker process {death.why} while it ran this request"
    if is_last:
        # Nothing speaks against the request itself: the client may come again.
        return (
            ErrorCode.MODEL_UNAVAILABLE,
            f"each of the {job.kills} worker processes that ran this request was killed;"
            " try again later",
        )
    return None


def _fingerprint(request: Generate) -> bytes:
    """The same for requests that make a worker do the same."""
    what = replace(request, request_id="", trace_id="")
    return hashlib.blake2b(repr(what).encode("utf-8", "backslashreplace"), digest_size=16).digest()
