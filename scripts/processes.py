"""What ``/proc`` says of the processes of a session."""

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    rss_mib: float  #: resident memory
    descriptors: int  #: open files and sockets
    threads: int


def footprint(pid: int) -> Footprint:
    """What a process holds now.

    Raises:
        OSError: there is no such process.
    """
    status = _status(pid)
    n_descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Footprint(int(status["VmRSS"].split()[0]) / 1024, n_descriptors, int(status["Threads"]))


def mib(pid: int, kind: str) -> float:
    """A sum of ``smaps_rollup``: ``Pss:``, or ``Private_`` for what is shared with no other.

    Raises:
        OSError: there is no such process.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(kind)) / _MIB


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has ever had."""
    return int(_status(pid)["VmHWM"].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, by the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def processes_of_session(session: int) -> list[int]:
    """The processes of a session that live; one that waits to be reaped does not."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return sorted(pid for pid in numbers if _session_of(pid) == session)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    return _session_of(pid) is not None


def send_signal(pid: int, number: signal.Signals, session: int) -> bool:
    """Send a signal to a process of a session, and to no other; tells whether it was there."""
    if _session_of(pid) != session:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int, timeout: float = 20.0) -> bool:
    """Wait until a process has ended, be it a child of ours or not; False if it has not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], max(0.0, timeout))[0])
    finally:
        os.close(descriptor)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _session_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything.
    state, _, _, session = stat.rpartition(b")")[2].split()[:4]
    return None if state in (b"Z", b"X") else int(session)
