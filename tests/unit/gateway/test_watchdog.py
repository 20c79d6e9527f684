"""Tests of how a silent worker is judged, and of what is read of a process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from gateway.pool.proc import activity, private_bytes
from gateway.pool.watchdog import TICK_S, Watchdog, _has_stalled, _Watch

HANDLE: Any = None
LIMIT_S = 10.0


@pytest.mark.parametrize(
    ("state", "silent_s", "disk_s", "computed_s", "expected"),
    [
        ("R", 9.5, 0, 9.0, False),
        ("R", 10, 0, 10.0, True),
        ("R", 20, 0, 9.0, False),  # it was hardly given a core
        ("R", 99.5, 0, 1.0, False),
        ("R", 100, 0, 1.0, True),
        ("S", 9.5, 0, 0.0, False),
        ("S", 10, 0, 0.0, True),  # it waits for something that does not come
        ("S", 10, 0, 5.0, False),  # other threads of it compute
        ("D", 20, 15, 0.0, False),  # it waits for a disk
        ("D", 100, 100, 0.0, False),
        ("", 10, 0, 0.0, True),  # nothing is known of it but its silence
    ],
)
def test_who_has_stalled(
    state: str, silent_s: float, disk_s: float, computed_s: float, expected: bool
) -> None:
    watch = _Watch(HANDLE, 1, LIMIT_S, int(silent_s / TICK_S), int(disk_s / TICK_S))
    assert _has_stalled(watch, state, computed_s) is expected


def test_it_looks_soon_when_something_begins_to_run() -> None:
    async def work() -> None:
        running: dict[str, int] = {}
        ticked = asyncio.Event()
        is_wanted = False

        def on_tick() -> bool:
            ticked.set()
            return is_wanted

        def due_s() -> float:
            assert watchdog._timer is not None
            return watchdog._timer.when() - asyncio.get_running_loop().time()

        watchdog = Watchdog(dict, running, lambda: 0.0, on_tick)
        watchdog.hurry()
        assert watchdog._timer is None, "it has not begun"
        watchdog.begin()
        await asyncio.wait_for(ticked.wait(), 20)
        assert due_s() > TICK_S, "it is idle"
        is_wanted = True
        watchdog.hurry()
        hurried = watchdog._timer
        assert due_s() <= TICK_S
        watchdog.hurry()
        assert watchdog._timer is hurried, "often asked, it would never look"
        ticked.clear()
        await asyncio.wait_for(ticked.wait(), 20)
        assert due_s() <= TICK_S, "what waits may start at any time"
        watchdog.end()
        watchdog.hurry()
        assert watchdog._timer is None

    asyncio.run(work())


def test_a_worker_that_had_fewer_threads_when_it_began_keeps_its_time() -> None:
    class Handle:
        pid = 0
        heard = 1

    handle: Any = Handle()
    limits_s = iter([40.0, 10.0])
    watchdog = Watchdog(lambda: {0: handle}, {"r": 0}, lambda: next(limits_s), lambda: False)
    for _ in range(2):
        watchdog._look_at_running({0: handle}, set())
    assert watchdog._watches["r"].limit_s == 40.0


def test_what_a_process_does() -> None:
    before = activity(os.getpid())
    began_s = time.process_time()
    while time.process_time() - began_s < 0.05:
        pass
    after = activity(os.getpid())
    assert after.state == "R"
    assert before.cpu_s < after.cpu_s < before.cpu_s + 10
    assert (private_bytes(os.getpid()) or 0) > 1 << 20


def test_a_process_that_is_stopped_then_dead_then_gone() -> None:
    # Its name stands in the line that is read.
    process = subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write(') R 1 ('); input()"],
        stdin=subprocess.PIPE,
    )
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert activity(process.pid).state == "T"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert activity(process.pid).state == "Z"
    process.communicate()
    assert activity(process.pid).state == ""
    assert private_bytes(process.pid) is None
