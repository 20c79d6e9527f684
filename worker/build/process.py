"""Runs the programs that a build needs, so that none outlives the build."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from shared.errors import EngineError
from shared.exit_status import ended

# Runs a command that ends when we do (prctl's PR_SET_PDEATHSIG is 1), however that may be.
_END_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_SHOWN_LINES = 20
_GRACE_S = 5.0
"""What a program gets to end its children."""


def run(
    what: str,
    command: Sequence[str],
    advice: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end, without a word if it succeeds.

    Args:
        what: what it does, for messages.
        command: the program's path and its arguments.
        advice: what to do if it fails.
        environment: its variables; None leaves it ours.

    Raises:
        EngineError: it failed; the text ends with the last lines that it wrote.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with _interruptions_held_back():
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _END_WITH_US, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        output, _ = process.communicate()
    except BaseException:
        if process is not None:
            _end(process)
        raise
    if process.returncode:
        lines = [line for line in output.splitlines() if line.strip()][-_SHOWN_LINES:]
        shown = "".join(f"\n    {line}" for line in lines)
        raise EngineError(f"{what} failed ({ended(process.returncode)}): {advice}{shown}")


@contextmanager
def _interruptions_held_back() -> Iterator[None]:
    """Interrupt at the end of the block and not in it, where the process would not be known yet.

    Masking the signals would not do: NumPy has threads, which get them then.
    """
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [
        signal.signal(number, lambda number, frame: held.append(number)) for number in numbers
    ]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


def _end(process: "subprocess.Popen[str]") -> None:
    # Told to end, ninja ends its compilers first, which are in process groups of their own.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
