"""Work in a fork, which may do no harm."""

import faulthandler
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from worker.grammar_trial import MOST_CPU_S, TrialFailed, tried


def test_it_says_what_the_work_says() -> None:
    assert tried(lambda: "ä" * 1000) == "ä" * 1000
    assert tried(lambda: "") == ""


def test_what_it_does_stays_in_the_fork() -> None:
    seen: list[int] = []

    def work() -> str:
        seen.append(1)
        return str(os.getpid())

    assert tried(work) != str(os.getpid())
    assert not seen


def test_work_without_an_end_is_ended() -> None:
    def work() -> str:
        while True:
            pass

    with pytest.raises(TrialFailed, match=f"more than {MOST_CPU_S} s"):
        tried(work)


def _crash(signal_number: int) -> NoReturn:
    faulthandler.disable()  # pytest's, which would print where
    signal.signal(signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), signal_number)
    raise AssertionError


@pytest.mark.parametrize(
    "work",
    [lambda: _crash(signal.SIGABRT), lambda: _crash(signal.SIGSEGV), lambda: "x" * (2 << 30)],
    ids=["abort", "crash", "memory"],
)
def test_a_crash_is_a_failure(work: Callable[[], str]) -> None:
    with pytest.raises(TrialFailed, match="crashes or takes more memory"):
        tried(work)


def _children() -> set[str]:
    """The processes whose parent this is; other tests may have left some."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            _, parent = stat.read_text("utf-8", "replace").rpartition(") ")[2].split()[:2]
            if int(parent) == os.getpid():
                found.add(stat.parent.name)
    return found


def test_nothing_is_left_of_it() -> None:
    files, children = set(os.listdir("/proc/self/fd")), _children()
    tried(lambda: "x")
    with pytest.raises(TrialFailed):
        tried(lambda: _crash(signal.SIGABRT))
    assert set(os.listdir("/proc/self/fd")) == files
    assert _children() <= children


def test_its_files_are_not_held_open_by_the_fork() -> None:
    reader, writer = os.pipe()
    held: list[bool] = []

    def on_wait() -> None:
        if not held:
            os.close(writer)
            held.append(os.read(reader, 1) != b"")

    def work() -> str:
        while True:
            pass

    with pytest.raises(TrialFailed):
        tried(work, on_wait)
    os.close(reader)
    assert held == [False]
