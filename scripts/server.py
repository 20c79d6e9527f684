"""Starts real servers in sessions of their own, watches them, and leaves nothing of them behind."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gateway.settings import Settings
from scripts.client import Connection
from scripts.processes import processes_of_session, wait_for_end

ROOT = Path(__file__).resolve().parents[1]
MAIN = (sys.executable, "main.py")
START_S = 60.0
"""How long a server may take to load its model, on a machine that does much else."""
DEADLINE_S = 20.0
"""How long anything else may take."""

# Runs a command that is killed when this process ends, however that may be (prctl's
# PR_SET_PDEATHSIG is 1): what is killed itself must not leave servers behind.
END_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""
_READY = r"ggml-fastapi is ready on http://\S+?:(\d+)\n"
_MISTAKES = ("Traceback", "Fatal error", "never retrieved")
_REQUEST_LINE = re.compile(r" gateway\.(access|http\S*): |GET /ready ")


class ServerFailed(Exception):
    """A process did not start, ended, or did not do in time what it must; the text says more."""


def environment(**settings: str) -> dict[str, str]:
    """The environment of a server: ours, but no setting other than those given."""
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    ours = {name: value for name, value in os.environ.items() if name not in names}
    return {**ours, "PYTHONUNBUFFERED": "1", **settings}


class Server:
    """A running server; ``url`` has no slash at its end, and is empty until it is ready."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Collect what ``process``, which has a session of its own, writes."""
        self.process = process
        self.pid = process.pid
        self.url = ""
        self._changed = threading.Condition()
        self._output: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._ended: set[str] = set()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._output[name].append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended.add(name)
            self._changed.notify_all()

    @property
    def stdout(self) -> str:
        return "".join(self._output["stdout"])

    @property
    def stderr(self) -> str:
        """What it and its workers have written to standard error."""
        return "".join(self._output["stderr"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_ready(self, timeout: float = START_S) -> None:
        """Wait for the summary and learn the port from it."""
        self.url = f"http://127.0.0.1:{self.wait_for_output(_READY, timeout=timeout)[1]}"

    def wait_for_output(
        self, pattern: str, name: str = "stdout", timeout: float = DEADLINE_S
    ) -> re.Match[str]:
        """Wait until the output matches a pattern.

        Raises:
            ServerFailed: it does not.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: re.search(pattern, getattr(self, name)) or name in self._ended, timeout
            )
            found = re.search(pattern, getattr(self, name))
        if not found:
            raise ServerFailed(f"no {pattern!r} on {name}\n{self.stdout}\n{self.log()}")
        return found

    def get(self, path: str) -> Any:
        """The JSON that a GET answers.

        Raises:
            OSError: it does not listen.
        """
        connection = Connection(self.url, timeout_s=START_S)
        try:
            return connection.get(path)
        finally:
            connection.close()

    def ready(self) -> dict[str, Any]:
        content: dict[str, Any] = self.get("/ready")
        return content

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], timeout: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Ask ``GET /ready`` until what it says meets a condition.

        Raises:
            ServerFailed: the server has ended, or it does not in time.
        """
        deadline_s = time.monotonic() + timeout
        while not condition(status := self.ready()):
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"still {status}\n{self.log()}")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.005)
                raise ServerFailed(f"the server has ended\n{self.log()}")
        return status

    def wait_until_idle(self, timeout: float = DEADLINE_S) -> dict[str, Any]:
        return self.wait_until(is_idle, timeout)

    def log(self, n_lines: int = 40) -> str:
        """The last lines of standard error, but for those about requests."""
        lines = [line for line in self.stderr.splitlines() if not _REQUEST_LINE.search(line)]
        return "\n".join(lines[-n_lines:])

    def mistakes(self) -> list[str]:
        """What the log tells of mistakes in the server, however it went on."""
        lines = self.stderr.splitlines()
        at = [i for i, line in enumerate(lines) if any(text in line for text in _MISTAKES)]
        return ["\n".join(lines[max(0, i - 2) : i + 20]) for i in at]

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.ready()["workers"] if worker["pid"]]

    def processes(self) -> list[int]:
        return processes_of_session(self.pid)

    def wait_for_exit(self, timeout: float = DEADLINE_S) -> int:
        """Wait for the gateway's end and return its exit status.

        Raises:
            ServerFailed: it does not end in time.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server did not end\n{self.log()}") from None

    def wait_until_gone(self, timeout: float = DEADLINE_S) -> list[int]:
        """Wait until no process of the server is left; returns those that are left all the same."""
        deadline_s = time.monotonic() + timeout
        while pids := self.processes():
            if time.monotonic() >= deadline_s:
                return pids
            wait_for_end(pids[0], deadline_s - time.monotonic())
        return []

    def kill(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.wait_until_gone()
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def is_idle(status: Any) -> bool:
    """Whether, by ``/ready``, nothing runs or waits, and every worker is there.

    A server that has no room for the connection says so instead, and is not idle.
    """
    if "waiting" not in status:
        return False
    return status["waiting"] == 0 and all(w["state"] == "idle" for w in status["workers"])


def zygotes(status: dict[str, Any]) -> list[int]:
    """The processes, by ``/ready``, that workers can be forked from now."""
    zygote = status.get("zygote") or {}
    return [zygote["pid"]] if zygote.get("is_loaded") else []


def launch(
    *options: str,
    command: Sequence[str] = MAIN,
    cwd: Path = ROOT,
    env: dict[str, str],
) -> "subprocess.Popen[str]":
    """Start a server's process on a free port, unless ``options`` say another."""
    return subprocess.Popen(
        [sys.executable, "-c", END_WITH_US, *command, "--port", "0", *options],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


@contextmanager
def served(*options: str, tree: str = "", **settings: str) -> Iterator[Server]:
    """A server that is ready; nothing of it outlives the block.

    Args:
        options: of the command line.
        tree: another checkout, whose server it is to be; it has an environment ``.venv``.
        settings: environment variables; of the caller's own settings it inherits none.

    Raises:
        ServerFailed: it did not start.
    """
    command = (f"{tree}/.venv/bin/ggml-fastapi",) if tree else MAIN
    cwd = Path(tree) if tree else ROOT
    server = Server(launch(*options, command=command, cwd=cwd, env=environment(**settings)))
    try:
        server.wait_until_ready()
        server.wait_until_idle(START_S)
        yield server
    finally:
        server.kill()
