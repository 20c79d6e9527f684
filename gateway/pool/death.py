"""Why a worker process has died, and whether that says anything about what it ran."""

import signal
from dataclasses import dataclass
from enum import Enum

from shared.exit_status import ended

# What code raises that has gone wrong; any other signal was sent by somebody.
_FAULTS = {
    signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
    signal.SIGSYS,
}  # fmt: skip


class Cause(str, Enum):
    """What ended a process; the values are for metrics."""

    CRASHED = "crashed"
    KILLED = "killed"
    STALLED = "stalled"
    STOPPED = "stopped"
    MEMORY = "memory"
    START_FAILED = "start_failed"


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker process.

    Attributes:
        cause: what ended it.
        why: the same in words, to stand behind "the worker process".
    """

    cause: Cause
    why: str

    @property
    def is_external(self) -> bool:
        """Whether somebody outside has ended it, so that its request is not to blame."""
        return self.cause in (Cause.KILLED, Cause.STOPPED)

    @classmethod
    def of(cls, exitcode: int | None) -> "Death":
        """The death of a process that we have not ended.

        Args:
            exitcode: negative for a signal; None if it could not be learned, since the zygote has
                died before it. Then nobody is blamed.
        """
        if exitcode is None:
            return cls(Cause.KILLED, "died, and its exit status is lost")
        is_fault = exitcode >= 0 or -exitcode in _FAULTS
        how = ended(exitcode)
        why = f"died ({how})" if exitcode >= 0 else f"was {how}"
        return cls(Cause.CRASHED if is_fault else Cause.KILLED, why)
