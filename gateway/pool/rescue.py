"""What becomes of a generation whose worker has died."""

from gateway.pool.death import Death
from gateway.pool.generation import Generation
from gateway.pool.quarantine import Quarantine
from shared.errors import ErrorCode

_MOST_CRASHES = 1
MOST_KILLS = 10
"""So often a generation is run again whose worker was ended by somebody outside."""

KILLS_WORKERS = (
    "worker processes have died again and again while they ran this request;"
    " for a while it is not taken any more"
)
"""What the client hears of a request in quarantine."""


def end_after(
    death: Death, generation: Generation, quarantine: Quarantine, now_s: float
) -> tuple[ErrorCode, str] | None:
    """Decide whether a generation is run again.

    Args:
        death: of the worker that ran it.
        generation: as it is; the death is noted in it.
        quarantine: where the death is noted if the request may be to blame. It does not decide
            about this generation, since others that are equal may have had bad luck.
        now_s: what the clock says.

    Returns:
        The error that it ends with; None if it is to be run again.
    """
    if death.is_external:
        generation.kills += 1
        is_last = generation.kills > MOST_KILLS
    else:
        generation.crashes += 1
        is_last = generation.crashes > _MOST_CRASHES
        quarantine.note_death(generation.request, now_s, is_proof=is_last)
    if generation.has_emitted or (is_last and not death.is_external):
        return ErrorCode.WORKER_CRASHED, f"the worker process {death.why} while it ran this request"
    if is_last:
        # Nothing speaks against the request itself: the client may come again.
        return (
            ErrorCode.MODEL_UNAVAILABLE,
            f"each of the {generation.kills} worker processes that ran this request was killed;"
            " try again later",
        )
    return None
