"""Tries in processes of their own whether grammars can be compiled, within bounds.

llguidance bounds most of what a grammar can ask for, but not all: a schema of one line can make it
compute for minutes, and what its native code does in the end of its stack or memory nobody knows.
Nobody else is to be held up or lost by that.
"""

import os
import resource
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial

from shared.errors import ErrorCode
from shared.grammar import Grammar

MOST_CPU_S = 2
"""Seconds of CPU time that a grammar may take to be compiled."""
_MOST_S = 20.0
_MOST_BYTES = 1 << 30
_LONGEST_REPORT = 1 << 20
# At the same time; each may take as much memory as it is allowed.
_MOST_TRIALS = 2
_MOST_KNOWN = 64


class GrammarRefused(Exception):
    """A grammar that cannot be used; the text says why, for the client."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INVALID_VALUE) -> None:
        super().__init__(message)
        self.code = code


class Trial:
    """Some work in a fork of this process, where it may do no harm."""

    def __init__(self, work: Callable[[], str]) -> None:
        """Begin work that says what is wrong. It has no other threads and no open files.

        Raises:
            OSError: there can be no fork at present.
        """
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            raise
        if self._pid == 0:
            _run(work, writer)  # does not return
        os.close(writer)
        self._report = b""
        self._deadline_s = time.monotonic() + _MOST_S

    def fileno(self) -> int:
        return self._reader

    def result(self) -> str | None:
        """What the work has said; None as long as it goes on.

        Raises:
            GrammarRefused: it took too much time or memory, or crashed.
        """
        is_over = time.monotonic() > self._deadline_s
        try:
            while piece := os.read(self._reader, _LONGEST_REPORT):
                self._report += piece
            is_over = True
        except BlockingIOError:
            pass
        if not is_over:
            return None
        os.close(self._reader)
        os.kill(self._pid, signal.SIGKILL)  # not reaped yet, so it is still that process
        _, status = os.waitpid(self._pid, 0)
        if self._report:
            return self._report[1:].decode("utf-8", "replace")
        how = "compiling it crashes or takes more memory than it may"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU):
            how = f"it takes more than {MOST_CPU_S} s to compile"
        raise GrammarRefused(how, ErrorCode.GRAMMAR_TOO_EXPENSIVE)


class Trials:
    """Tries grammars, a few at a time; those that can be used are remembered for a while."""

    def __init__(self, problem: Callable[[Grammar], str]) -> None:
        """Begin with none; ``problem`` says what is wrong with a grammar, empty if nothing."""
        self._problem = problem
        self._known: OrderedDict[Grammar, None] = OrderedDict()
        self._waiting: deque[Grammar] = deque()
        self.running: dict[Grammar, Trial] = {}

    def knows(self, grammar: Grammar) -> bool:
        """Whether a grammar can be used for certain."""
        if grammar not in self._known:
            return False
        self._known.move_to_end(grammar)
        return True

    def begin(self, grammar: Grammar) -> None:
        """Have a grammar tried, unless it is already."""
        if grammar not in self._waiting and grammar not in self.running:
            self._waiting.append(grammar)

    def step(self) -> list[tuple[Grammar, GrammarRefused | None]]:
        """Those whose trial has ended, and why they cannot be used; starts further ones."""
        ended: list[tuple[Grammar, GrammarRefused | None]] = []
        while self._waiting and len(self.running) < _MOST_TRIALS:
            grammar = self._waiting.popleft()
            try:
                self.running[grammar] = Trial(partial(self._problem, grammar))
            except OSError as error:
                how = f"the grammar could not be tried: {error.strerror}"
                ended.append((grammar, GrammarRefused(how, ErrorCode.ENGINE_ERROR)))
        for grammar, trial in list(self.running.items()):
            try:
                problem = trial.result()
                refusal = GrammarRefused(problem) if problem else None
            except GrammarRefused as error:
                problem, refusal = "", error
            if problem is None:
                continue
            del self.running[grammar]
            ended.append((grammar, refusal))
            if refusal is None:
                self._known[grammar] = None
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
        return ended


def bound_memory(n_bytes: int) -> None:
    """Have the kernel refuse more memory than there is now and so many bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + n_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most)
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run(work: Callable[[], str], writer: int) -> None:
    try:
        _close_all_but(writer)
        # The kernel ends it, whatever native code it is in.
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        bound_memory(_MOST_BYTES)
        report = work().encode("utf-8", "replace")[: _LONGEST_REPORT - 1]
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
