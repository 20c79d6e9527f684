"""What ``/proc`` says of a server's processes. Linux only."""

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds.

    Attributes:
        rss_mib: resident memory.
        descriptors: open files and sockets.
        threads: of the process.
    """

    rss_mib: float
    descriptors: int
    threads: int

    def as_json(self) -> dict[str, float]:
        """The same by name."""
        return asdict(self)


def footprint(pid: int) -> Footprint:
    """What a process holds now.

    Raises:
        OSError: there is no such process.
    """
    status = _status(pid)
    return Footprint(
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def private_mib(pid: int) -> float:
    """Memory that a process shares with no other.

    Raises:
        OSError: there is no such process.
    """
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            total += int(line.split()[1]) << 10
    return total / _MIB


def processes_of_session(session: int) -> list[int]:
    """The processes of a session that live."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return sorted(pid for pid in numbers if (stat := _stat(pid)) and stat[1] == session)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process that lives has a handler of its own for a signal.

    Of a server's processes those that can be forked from catch SIGCHLD, and only they.
    """
    try:
        caught = int(_status(pid)["SigCgt"], 16)
    except (OSError, KeyError):
        return False
    return bool(caught >> (number - 1) & 1)


def send_signal(pid: int, number: signal.Signals, session: int) -> bool:
    """Send a signal to a process of a session, and to no other; tells whether it was there."""
    stat = _stat(pid)
    if stat is None or stat[1] != session:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _stat(pid: int) -> tuple[str, int] | None:
    """State and session of a process, unless it only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else (state, int(session))
