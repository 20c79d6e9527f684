"""What ``/proc`` says of a process."""

import os
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Activity(NamedTuple):
    """What a process is doing."""

    #: of its main thread: ``R`` runs or could, ``S`` sleeps, ``D`` waits for a disk, ``T`` was
    #: stopped, ``t`` is held by a debugger, ``Z`` is dead; empty if it is gone or unknown
    state: str
    #: that all its threads have used
    cpu_s: float


_UNKNOWN = Activity("", 0.0)


def activity(pid: int) -> Activity:
    """What a process is doing at this moment."""
    try:
        # Not `open`: this is called for many processes, on the event loop.
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return _UNKNOWN
    try:
        line = os.read(descriptor, 1024)
    except OSError:  # it has ended since
        return _UNKNOWN
    finally:
        os.close(descriptor)
    # Its name stands in parentheses, and may hold anything.
    fields = line[line.rfind(b")") + 2 :].split(None, 14)
    return Activity(fields[0].decode(), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def private_bytes(pid: int) -> int | None:
    """The memory that would be free without the process; None if that is not known."""
    total = None
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as lines:
            for line in lines:
                if line.startswith(b"Private_"):
                    total = (total or 0) + int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return total
