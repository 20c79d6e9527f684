"""Real servers with and without a terminal and standard files."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.serving import DEADLINE_S, MAIN, ROOT, START_S, environment, processes_of_session

# Makes standard input the terminal of the session that the process leads, and runs a command, which
# hears of its end also where the tests themselves would not.
_WITH_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    " os.execvp(sys.argv[1], sys.argv[1:])"
)


@contextmanager
def started(
    *command: str, terminal: int | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A server that is ready, in a session of its own; nothing of it outlives the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [*command, *MAIN, "--port", str(port)],
        cwd=ROOT,
        env=environment(MODEL_TYPE="echo", WORKERS="1", DRAIN_TIMEOUT="2"),
        start_new_session=True,
        stdin=terminal,
        stdout=subprocess.DEVNULL if terminal else None,
        stderr=subprocess.DEVNULL if terminal else None,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not is_ready(url):
            assert process.poll() is None and time.monotonic() < deadline
        yield process, url
    finally:
        for pid in processes_of_session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=DEADLINE_S).is_success
    except httpx.TransportError:
        return False


def is_gone(process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while processes_of_session(process.pid):
        if time.monotonic() > deadline:
            return False
    return True


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_standard_files_that_are_closed_or_full_harm_nothing(closed: str) -> None:
    with started("sh", "-c", f'exec "$@" {closed}', "sh") as (process, url):
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "Hi"})
        assert answer.json() == "Hi"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert is_gone(process)


@pytest.mark.parametrize("outlives", [False, True])
def test_a_terminal_that_goes_ends_the_server_unless_it_was_to_outlive_that(outlives: bool) -> None:
    # With its output elsewhere, or it would leave a file nohup.out.
    nohup = ["sh", "-c", 'exec nohup "$@" >/dev/null', "sh"] if outlives else []
    command = (sys.executable, "-c", _WITH_TERMINAL, *nohup)
    with ExitStack() as stack:
        ours, its = pty.openpty()
        stack.callback(os.close, its)
        process, url = stack.enter_context(started(*command, terminal=its))
        # As long as it is there, SIGHUP loads the model again.
        workers = httpx.get(f"{url}/ready").json()["workers"]
        if not outlives:
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + DEADLINE_S
            while httpx.get(f"{url}/ready").json()["workers"] == workers:
                assert time.monotonic() < deadline
        os.close(ours)
        if outlives:
            assert is_ready(url)
            process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert is_gone(process)
