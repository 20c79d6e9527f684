"""What this process has of the machine: a terminal; cores and memory, within the cgroup's limits.

Sources: Linux' cgroup v2 (``cpu.max``, ``memory.max``) and v1 (``cpu.cfs_quota_us``,
``memory.limit_in_bytes``) interfaces, ``/sys/devices/system/cpu``, ``/proc/meminfo``. Functions
take ``root``, where ``/proc`` and ``/sys`` are found.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# limit, usage, and the line of memory.stat with the page cache that is given up on demand
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def has_terminal() -> bool:
    """Whether there is a terminal that controls the process, and it is not gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True


def usable_cores(root: Path = _ROOT) -> int:
    """How many threads can compute at once without sharing a physical core.

    Counts the cores in the CPU affinity mask, and no more than the cgroup's CPU quota, rounded up.
    """
    return _within_quota(len({_core_of(cpu, root) for cpu in os.sched_getaffinity(0)}), root)


def usable_cpus(root: Path = _ROOT) -> int:
    """The same, but hyperthreads of one core count each."""
    return _within_quota(len(os.sched_getaffinity(0)), root)


def _within_quota(count: int, root: Path) -> int:
    quota = cpu_quota(root)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _core_of(cpu: int, root: Path) -> str:
    """A name that the hyperthreads of one physical core share."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(path) or str(cpu)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The cgroup's CPU quota in cores, the tightest of all levels; None if there is none."""
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = (_read(folder / "cpu.max") or "max").partition(" ")
        if quota == "max":
            quota = _read(folder / "cpu.cfs_quota_us") or "-1"
            period = _read(folder / "cpu.cfs_period_us") or "0"
        quota_us, period_us = _number(quota), _number(period)
        if quota_us and period_us:
            quotas.append(quota_us / period_us)
    return min(quotas, default=None)


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that can be taken before the machine, or the cgroup, runs out; None if unknown."""
    limits = []
    kib = _field(root / "proc/meminfo", "MemAvailable:")
    if kib is not None:
        limits.append(kib * 1024)
    for folder in _cgroup_folders(root, "memory"):
        for limit_name, usage_name, cache_name in _MEMORY_FILES:
            limit, usage = _number(_read(folder / limit_name)), _number(_read(folder / usage_name))
            if limit is not None and usage is not None:
                cached = _field(folder / "memory.stat", cache_name) or 0
                limits.append(max(0, limit - (usage - cached)))
    return min(limits, default=None)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process' cgroup and its parents, for either cgroup version."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if not path:
            continue
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        yield folder
        # Within a container the path may name what only the host can see.
        yield from (parent for parent in folder.parents if parent.is_relative_to(mount))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(text: str | None) -> int | None:
    """The number at the beginning of a text; None if there is none, as of ``max``."""
    first = (text or "").split(None, 1)[:1]
    return int(first[0]) if first and first[0].isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number behind ``name`` at the beginning of a line."""
    lines = (line.split(None, 1) for line in (_read(path) or "").splitlines())
    return next(
        (_number(words[1]) for words in lines if len(words) == 2 and words[0] == name), None
    )
