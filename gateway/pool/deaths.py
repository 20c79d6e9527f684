"""How a process has ended, and how long to wait until the next is started in its place."""

import asyncio
import contextlib
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
    """The end of a worker process."""

    cause: Cause
    #: to stand behind "the worker process"
    why: str
    #: its exit status, negative for a signal; None if it is not known
    status: int | None = None

    @property
    def is_external(self) -> bool:
        """Whether somebody outside has ended it, so that no request is to blame."""
        return self.cause in (Cause.KILLED, Cause.STOPPED)

    @classmethod
    def of(cls, status: int | None) -> "Death":
        """The death of a process that we have not ended.

        Where its status is not known, since the zygote has died before it, nobody is blamed.
        """
        if status is None:
            return cls(Cause.KILLED, "died, and its exit status is lost")
        is_fault = status >= 0 or -status in _FAULTS
        why = f"died ({ended(status)})" if status >= 0 else f"was {ended(status)}"
        return cls(Cause.CRASHED if is_fault else Cause.KILLED, why, status)


@dataclass(slots=True)
class Backoff:
    """Doubles with each failure in a row; the first is answered at once."""

    first_s: float
    most_s: float
    failures: int = 0

    def note(self, *, is_failure: bool) -> None:
        self.failures = self.failures + 1 if is_failure else 0

    async def wait(self, event: asyncio.Event) -> None:
        """Wait until the next process is due, or for an event that comes first."""
        if self.failures > 1:
            seconds = min(self.most_s, self.first_s * 2 ** min(self.failures, 10))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
