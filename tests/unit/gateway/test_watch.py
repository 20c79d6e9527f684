"""Tests of how a silent worker is judged, and of what is read of a process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.pool import watch as watch_module
from gateway.pool.base import NO_LIMITS, Limits
from gateway.pool.watch import TICK_S, Watch, _Silence, activity, private_bytes

LIMIT_S = 10.0


class Scene:
    """A watch over nothing but what a test says."""

    def __init__(self, limits: Limits = NO_LIMITS, **options: Any) -> None:
        self.scheduler: Any = SimpleNamespace(running={}, waiting=[], busy_workers=set())
        dispatcher: Any = SimpleNamespace(scheduler=self.scheduler, stall_s=0.0, keepers=[])
        self.dispatcher = dispatcher
        self.ticked = asyncio.Event()
        self.watch = Watch(dispatcher, [], self, limits, **options)  # type: ignore[arg-type]

    @property
    def process(self) -> None:
        """The zygote's, which each tick looks at."""
        self.ticked.set()


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
    silence = _Silence(1, LIMIT_S, int(silent_s / TICK_S), int(disk_s / TICK_S))
    assert silence.is_stall(state, computed_s) is expected


def test_it_looks_soon_when_something_begins_to_run() -> None:
    async def work() -> None:
        scene = Scene()
        watch = scene.watch

        def due_s() -> float:
            assert watch._timer is not None
            return watch._timer.when() - asyncio.get_running_loop().time()

        watch.hurry()
        assert watch._timer is None, "it has not begun"
        watch.begin()
        await asyncio.wait_for(scene.ticked.wait(), 20)
        assert due_s() > TICK_S, "it is idle"
        scene.scheduler.waiting.append("a job")
        watch.hurry()
        hurried = watch._timer
        assert due_s() <= TICK_S
        watch.hurry()
        assert watch._timer is hurried, "often asked, it would never look"
        scene.ticked.clear()
        await asyncio.wait_for(scene.ticked.wait(), 20)
        assert due_s() <= TICK_S, "what waits may start at any time"
        await watch.close()
        watch.hurry()
        assert watch._timer is None

    asyncio.run(work())


def test_a_worker_that_had_fewer_threads_when_it_began_keeps_its_time() -> None:
    class Process:
        pid = 0
        heard = 1

    scene = Scene()
    busy: Any = [Process()]
    for scene.dispatcher.stall_s in (40.0, 10.0):
        scene.watch._look_at_busy(busy)
    (silence,) = scene.watch._silences.values()
    assert silence.limit_s == 40.0


def test_memory_that_cannot_be_measured_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch_module, "_MEASURE_S", 0.001)
    seen: list[bool] = []
    answers: list[int | Exception] = [10, ValueError("nonsense"), ValueError("nonsense")]

    def free_bytes() -> int | None:
        seen.append(scene.watch.is_short)
        answer = answers.pop(0) if answers else 10
        if isinstance(answer, Exception):
            raise answer
        return answer

    scene = Scene(Limits(min_free_memory=100), free_bytes=free_bytes)

    async def work() -> None:
        scene.watch.begin()
        while len(seen) < 5:
            await asyncio.sleep(0.001)
        await scene.watch.close()

    asyncio.run(asyncio.wait_for(work(), 20))
    assert seen[:5] == [False, True, False, False, True]
    assert caplog.text.count("memory could not be measured") == 1


def test_what_a_process_does() -> None:
    before = activity(os.getpid())
    began_s = time.process_time()
    while time.process_time() - began_s < 0.05:
        pass
    after = activity(os.getpid())
    assert after.state == "R"
    assert before.cpu_s < after.cpu_s < before.cpu_s + 10
    assert (private_bytes(os.getpid())[0] or 0) > 1 << 20


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
    assert private_bytes(process.pid)[0] is None
