"""Tries in a process of its own whether a grammar can be compiled, within bounds.

llguidance bounds most of what a grammar can ask for, but not all: a schema of one line can make it
compute for minutes, and what its native code does in the end of its stack or memory nobody knows.
No worker is to be stalled or lost by that.
"""

import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable

from shared.errors import EngineError

MOST_CPU_S = 2
"""Seconds of CPU time that a grammar may take to be compiled."""
_MOST_S = 20.0
_MOST_BYTES = 1 << 30
_LONGEST_REPORT = 1 << 16
_TICK_S = 0.25


class TrialFailed(Exception):
    """The trial did not end by itself; the text says what is wrong with the grammar."""


def tried(work: Callable[[], str], on_wait: Callable[[], None] = lambda: None) -> str:
    """What ``work`` returns in a fork of this process, where it may do no harm.

    Args:
        work: must not use anything that a fork does not have: other threads, open files.
        on_wait: called now and then while it takes its time.

    Raises:
        TrialFailed: it takes too much time or memory, or crashes.
        EngineError: there can be no fork at present.
    """
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # Of the other thread, which only waits, and holds nothing that the fork would need.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise EngineError(f"the grammar could not be tried: {error.strerror}") from error
    if pid == 0:
        _run(work, writer)  # does not return
    os.close(writer)
    deadline_s = time.monotonic() + _MOST_S
    try:
        report = _read(reader, deadline_s, on_wait)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still that process
        _, status = os.waitpid(pid, 0)
    if report is None:
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if ended_by in (signal.SIGKILL, signal.SIGXCPU):
            raise TrialFailed(f"it takes more than {MOST_CPU_S} s to compile")
        raise TrialFailed("compiling it crashes or takes more memory than it may")
    return report


def _run(work: Callable[[], str], writer: int) -> None:
    try:
        _close_all_but(writer)
        # The kernel ends it, whatever native code it is in.
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        limit = _address_space() + _MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        report = work().encode("utf-8", "replace")[:_LONGEST_REPORT]
        os.write(writer, b"=" + report)
    finally:
        os._exit(0)


def _close_all_but(kept: int) -> None:
    """Let go of what the process has open: that its pipes end says that it is dead."""
    silence = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(silence, standard)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, kept)
    os.closerange(kept + 1, most)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _read(reader: int, deadline_s: float, on_wait: Callable[[], None]) -> str | None:
    """The whole report; None if there is none."""
    report = b""
    ready = select.poll()
    ready.register(reader, select.POLLIN)
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not ready.poll(1000 * min(left_s, _TICK_S)):
            on_wait()
            continue
        piece = os.read(reader, _LONGEST_REPORT)
        if not piece:
            return report[1:].decode("utf-8", "replace") if report else None
        report += piece
    return None
