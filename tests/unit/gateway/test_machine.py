"""Tests of what the machine allows, with trees that stand for /proc and /sys."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import machine

MIB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712
"""What cgroup v1 writes where there is no memory limit."""
V1 = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n2:cpuset:/\n1:name=systemd:/docker/x"

Files = dict[str, object]
Tree = Callable[[Files], Path]
Allow = Callable[[set[int]], None]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes files below a root folder from ``path: content``."""

    def make(files: Files) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return make


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Sets the CPU affinity mask that the system reports."""
    return lambda mask: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask)


def siblings(*cores: tuple[int, ...]) -> Files:
    """The topology files of these physical cores, each with its hyperthreads."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, core))
        for core in cores
        for cpu in core
    }


def meminfo(available_mib: int) -> Files:
    return {
        "proc/meminfo": f"MemTotal:       99999999 kB\nMemFree:        5 kB\n"
        f"MemAvailable:   {available_mib * 1024} kB\nBuffers: 1 kB"
    }


def group(path: str, files: Files, cgroup: str | None = None) -> Files:
    """Files in folders of the cgroup file system; the process is in the group ``path``."""
    return {"proc/self/cgroup": cgroup or f"0::{path}"} | {
        f"sys/fs/cgroup/{name}": content for name, content in files.items()
    }


def memory(folder: str, limit: object, usage: int) -> Files:
    return {f"{folder}memory.max": limit, f"{folder}memory.current": usage * MIB}


def memory_v1(folder: str, limit: object, usage: int) -> Files:
    names = "memory.limit_in_bytes", "memory.usage_in_bytes"
    return {f"memory/{folder}{names[0]}": limit, f"memory/{folder}{names[1]}": usage * MIB}


def cpu_v1(folder: str, quota: int) -> Files:
    return {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": 100_000}


def test_no_files_at_all(tmp_path: Path, cpus: Allow) -> None:
    cpus({0, 1, 5})
    assert machine.usable_cores(tmp_path) == 3
    assert machine.usable_cpus(tmp_path) == 3
    assert machine.cpu_quota(tmp_path) is None
    assert machine.available_memory(tmp_path) is None


def test_hyperthreads_share_a_core(tree: Tree, cpus: Allow) -> None:
    root = tree(siblings((0, 4), (1, 5), (2, 6), (3, 7)))
    for mask, cores in (({*range(8)}, 4), ({0, 4}, 1), ({0, 5}, 2), ({1, 2, 3, 5}, 3)):
        cpus(mask)
        assert machine.usable_cores(root) == cores
        assert machine.usable_cpus(root) == len(mask)


def test_quota_limits_the_cores(tree: Tree, cpus: Allow) -> None:
    cpus({*range(8)})
    for quota, cores in ((50_000, 1), (100_000, 1), (150_000, 2), (400_000, 4), (9_900_000, 8)):
        root = tree(group("/", {"cpu.max": f"{quota} 100000"}))
        assert machine.usable_cores(root) == cores
        assert machine.usable_cpus(root) == cores


IN_A_CONTAINER = group(
    "", {**cpu_v1("cpu/", 200_000), **memory_v1("", 100 * MIB, 30)}, V1
)  # the group's own folder is not there


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (group("/a/b", {"a/b/cpu.max": "250000 100000"}), 2.5),
        *(
            (group("/", {"cpu.max": text}), None)
            for text in ("max 100000", "max", "", "nonsense 100000", "100000", "1 0")
        ),
        (
            group("/a/b/c", {
                "a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "300000 100000",
                "a/cpu.max": "30000 20000", "cpu.max": "800000 100000", "../cpu.max": "1000 100000",
            }), 1.5,
        ),  # the tightest of all levels
        (
            group("", {
                **cpu_v1("cpu/docker/x/", 150_000), **cpu_v1("cpu/", -1), **cpu_v1("cpuset/", 1),
            }, V1), 1.5,
        ),
        (IN_A_CONTAINER, 2),
    ],
)  # fmt: skip
def test_quota(tree: Tree, files: Files, quota: float | None) -> None:
    assert machine.cpu_quota(tree(files)) == quota


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        (meminfo(300), 300),
        (meminfo(5000) | group("/a", memory("a/", 1000 * MIB, 400)), 600),
        (meminfo(5000) | group("/a", memory("a/", "max", 400)), 5000),
        (meminfo(200) | group("/", memory("", 1000 * MIB, 0)), 200),
        (group("/", memory("", 10 * MIB, 11)), 0),
        # The page cache counts as used, but is given up when memory is wanted.
        (
            group("/a", {
                **memory("a/", 1000 * MIB, 400), "a/memory.stat": f"anon 5\ninactive_file {MIB}\n",
            }), 601,
        ),
        # The tightest of all levels.
        (
            meminfo(900) | group("/a/b", {
                **memory("a/b/", 800 * MIB, 100), **memory("a/", 1000 * MIB, 950),
            }), 50,
        ),
        *(
            (
                meminfo(5000) | group("", {
                    **memory_v1("docker/x/", limit, 100), **memory_v1("", NO_LIMIT_V1, 4000),
                }, V1), mib,
            )
            for limit, mib in ((512 * MIB, 412), (NO_LIMIT_V1, 5000))
        ),
        (
            group("", {
                **memory_v1("", 100 * MIB, 30), "memory/memory.stat": f"total_inactive_file {MIB}",
            }, V1), 71,
        ),
        (IN_A_CONTAINER, 70),
    ],
)  # fmt: skip
def test_memory(tree: Tree, files: Files, mib: int) -> None:
    assert machine.available_memory(tree(files)) == mib * MIB
