"""Tests of what the machine allows, with trees that stand for /proc and /sys."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import machine

MIB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712
"""What cgroup v1 writes where there is no memory limit."""

Tree = Callable[[dict[str, object]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes files below a root folder from ``path: content``."""

    def make(files: dict[str, object]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return make


def siblings(*cores: tuple[int, ...]) -> dict[str, object]:
    """The topology files of these physical cores, each with its hyperthreads."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, core))
        for core in cores
        for cpu in core
    }


def meminfo(available_mib: int) -> dict[str, object]:
    return {
        "proc/meminfo": f"MemTotal:       99999999 kB\nMemFree:        5 kB\n"
        f"MemAvailable:   {available_mib * 1024} kB\nBuffers: 1 kB"
    }


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Sets the CPU affinity mask that the system reports."""

    def allow(mask: set[int]) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask, raising=False)

    return allow


def test_no_files_at_all(tmp_path: Path, cpus: Callable[[set[int]], None]) -> None:
    cpus({0, 1, 5})
    assert machine.usable_cores(tmp_path) == 3
    assert machine.usable_cpus(tmp_path) == 3
    assert machine.cpu_quota(tmp_path) is None
    assert machine.available_memory(tmp_path) is None


def test_no_affinity_on_this_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores(tmp_path) == 1


def test_hyperthreads_share_a_core(tree: Tree, cpus: Callable[[set[int]], None]) -> None:
    root = tree(siblings((0, 4), (1, 5), (2, 6), (3, 7)))
    for mask, cores in (({*range(8)}, 4), ({0, 4}, 1), ({0, 5}, 2), ({1, 2, 3, 5}, 3)):
        cpus(mask)
        assert machine.usable_cores(root) == cores
        assert machine.usable_cpus(root) == len(mask)


def test_quota_limits_the_cores(tree: Tree, cpus: Callable[[set[int]], None]) -> None:
    cpus({*range(8)})
    for quota, cores in ((50_000, 1), (100_000, 1), (150_000, 2), (400_000, 4), (9_900_000, 8)):
        root = tree({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
        assert machine.usable_cores(root) == cores


def test_quota_v2(tree: Tree) -> None:
    root = tree({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "250000 100000"})
    assert machine.cpu_quota(root) == 2.5


@pytest.mark.parametrize("text", ["max 100000", "max", "", "nonsense 100000", "100000", "1 0"])
def test_no_quota_v2(tree: Tree, text: str) -> None:
    root = tree({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": text})
    assert machine.cpu_quota(root) is None


def test_the_tightest_quota_of_all_levels_counts(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "0::/a/b/c",
            "sys/fs/cgroup/a/b/c/cpu.max": "max 100000",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
            "sys/fs/cgroup/a/cpu.max": "30000 20000",
            "sys/fs/cgroup/cpu.max": "800000 100000",
            "sys/fs/cpu.max": "1000 100000",
        }
    )
    assert machine.cpu_quota(root) == 1.5


V1 = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n2:cpuset:/\n1:name=systemd:/docker/x"


def test_quota_v1(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": 150_000,
            "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": 100_000,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000,
            "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": 1,
            "sys/fs/cgroup/cpuset/cpu.cfs_period_us": 100_000,
        }
    )
    assert machine.cpu_quota(root) == 1.5


def test_in_a_container_the_named_folder_may_not_be_there(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 200_000,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 100 * MIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 30 * MIB,
        }
    )
    assert machine.cpu_quota(root) == 2
    assert machine.available_memory(root) == 70 * MIB


def test_memory_of_the_machine(tree: Tree) -> None:
    assert machine.available_memory(tree(meminfo(300))) == 300 * MIB


def test_memory_v2(tree: Tree) -> None:
    root = tree(
        {
            **meminfo(5000),
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": 1000 * MIB,
            "sys/fs/cgroup/a/memory.current": 400 * MIB,
        }
    )
    assert machine.available_memory(root) == 600 * MIB


def test_memory_files_that_make_no_sense(tree: Tree) -> None:
    root = tree(
        {
            "proc/meminfo": "MemAvailable:\nMemAvailable: many kB\nnonsense\n",
            "proc/self/cgroup": "nonsense\n\n0::\n0::/a",
            "sys/fs/cgroup/a/memory.max": 1000 * MIB,
            "sys/fs/cgroup/a/memory.current": 400 * MIB,
            "sys/fs/cgroup/a/memory.stat": "\none two three\ninactive_file\ninactive_file x\n",
        }
    )
    assert machine.available_memory(root) == 600 * MIB


def test_no_memory_limit_v2(tree: Tree) -> None:
    root = tree(
        {
            **meminfo(5000),
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "max",
            "sys/fs/cgroup/a/memory.current": 400 * MIB,
        }
    )
    assert machine.available_memory(root) == 5000 * MIB


def test_memory_v1(tree: Tree) -> None:
    files = {
        **meminfo(5000),
        "proc/self/cgroup": V1,
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": 512 * MIB,
        "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": 100 * MIB,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 4000 * MIB,
    }
    assert machine.available_memory(tree(files)) == 412 * MIB
    files["sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes"] = NO_LIMIT_V1
    assert machine.available_memory(tree(files)) == 5000 * MIB


def test_the_tightest_memory_limit_of_all_levels_counts(tree: Tree) -> None:
    root = tree(
        {
            **meminfo(900),
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": 800 * MIB,
            "sys/fs/cgroup/a/b/memory.current": 100 * MIB,
            "sys/fs/cgroup/a/memory.max": 1000 * MIB,
            "sys/fs/cgroup/a/memory.current": 950 * MIB,
        }
    )
    assert machine.available_memory(root) == 50 * MIB


def test_a_limit_that_is_overdrawn_leaves_nothing(tree: Tree) -> None:
    root = tree(
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 10 * MIB,
            "sys/fs/cgroup/memory.current": 11 * MIB,
        }
    )
    assert machine.available_memory(root) == 0


def test_the_larger_of_machine_and_group_does_not_count(tree: Tree) -> None:
    root = tree(
        {
            **meminfo(200),
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 1000 * MIB,
            "sys/fs/cgroup/memory.current": 0,
        }
    )
    assert machine.available_memory(root) == 200 * MIB


def test_this_machine() -> None:
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    memory = machine.available_memory()
    assert memory is None or memory > 0
