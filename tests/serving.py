"""Starts real servers for tests, watches them, and leaves nothing of them behind.

Linux only: it finds the processes of a server by their session, in ``/proc``.
"""

import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx

from gateway.settings import Settings

ROOT = Path(__file__).parents[1]
MAIN = (sys.executable, "main.py")
START_S = 60.0
"""How long a server may take to load its model, on a machine that does much else."""
DEADLINE_S = 20.0
"""How long anything else may take before a test gives it up."""

# Runs a command that is killed when this process ends, however that may be (prctl's
# PR_SET_PDEATHSIG is 1): a test run that is killed must not leave servers behind.
_END_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""
_READY = r"ggml-fastapi is ready on http://\S+?:(\d+)\n"


def environment(**settings: str) -> dict[str, str]:
    """The environment of a server: ours, but no setting other than those given.

    A server has one parked worker, so that the tests do not spend their time on starting more; and
    one thread for an evaluation, since threads spin where they wait for one another, while servers
    of tests that run side by side wait for a processor.
    """
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    ours = {name: value for name, value in os.environ.items() if name not in names}
    return {**ours, "PYTHONUNBUFFERED": "1", "PARKED": "1", "THREADS": "1", **settings}


def run_main(
    *options: str, command: Sequence[str] = MAIN, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [*command, "--port", "0", *options],
        cwd=ROOT,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
    )


class Server:
    """A running server with a session of its own.

    Attributes:
        process: the gateway.
        url: where it listens, without a slash at the end.
        http: a client for `url`.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._changed = threading.Condition()
        self._output = {"stdout": "", "stderr": ""}
        self._ended: set[str] = set()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        self.url = ""
        self.http = httpx.Client(timeout=START_S)

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._output[name] += line
                self._changed.notify_all()
        with self._changed:
            self._ended.add(name)
            self._changed.notify_all()

    def wait_until_ready(self, timeout: float = START_S) -> None:
        """Wait for the summary and learn the port from it."""
        self.url = f"http://127.0.0.1:{self.wait_for_output(_READY, timeout=timeout)[1]}"
        self.http.base_url = self.url

    def wait_for_output(
        self, pattern: str, name: str = "stdout", timeout: float = DEADLINE_S
    ) -> re.Match[str]:
        """Wait until the output matches a pattern."""
        with self._changed:
            self._changed.wait_for(
                lambda: re.search(pattern, self._output[name]) or name in self._ended, timeout
            )
            found = re.search(pattern, self._output[name])
        assert found, f"no {pattern!r} on {name}\n{self.stdout}\n{self.log()}"
        return found

    @property
    def stdout(self) -> str:
        """What it has written to standard output."""
        return self._output["stdout"]

    @property
    def stderr(self) -> str:
        """What it and its workers have written to standard error."""
        return self._output["stderr"]

    @property
    def model(self) -> str:
        """The id of the model that is served."""
        return str(self.http.get("/v1/models").json()["data"][0]["id"])

    def ready(self) -> dict[str, Any]:
        """What ``GET /ready`` says."""
        content: dict[str, Any] = self.http.get("/ready").json()
        return content

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], timeout: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Ask ``GET /ready`` until what it says meets a condition."""
        deadline = time.monotonic() + timeout
        while not condition(status := self.ready()):
            assert time.monotonic() < deadline, f"still {status}\n{self.log()}"
            self._pause()
        return status

    def _pause(self) -> None:
        try:
            self.process.wait(0.005)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"the server has ended\n{self.log()}")

    def log(self) -> str:
        """The last lines of standard error, but for those about `ready`."""
        lines = [line for line in self.stderr.splitlines() if "GET /ready " not in line]
        return "\n".join(lines[-40:])

    def wait_until_idle(self, timeout: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until all workers are free and nothing waits."""
        return self.wait_until(
            lambda status: (
                status["waiting"] == 0
                and all(worker["state"] == "idle" for worker in status["workers"])
            ),
            timeout,
        )

    def deaths(self) -> float:
        """How many workers have died, but for those that made room for another's fork."""
        found = [
            number
            for name, number in self.counters().items()
            if name.startswith("ggml_worker_deaths_total{") and '"renewed"' not in name
        ]
        assert found
        return sum(found)

    def counters(self) -> dict[str, float]:
        """The counters of ``/metrics``, by their names with their labels."""
        lines = self.http.get("/metrics").text.splitlines()
        samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples.items() if "_total" in name}

    def worker_pids(self) -> list[int]:
        """The processes of the workers."""
        return [worker["pid"] for worker in self.ready()["workers"]]

    def processes(self) -> list[int]:
        """All processes of the server that live."""
        return processes_of_session(self.process.pid)

    def wait_for_exit(self, timeout: float = DEADLINE_S) -> int:
        """Wait for the gateway's end and return its exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end\n{self.log()}") from None

    def wait_until_gone(self, timeout: float = DEADLINE_S) -> list[int]:
        """Wait until no process of the server is left; returns those that are left all the same."""
        deadline = time.monotonic() + timeout
        while pids := self.processes():
            if time.monotonic() >= deadline:
                return pids
            wait_for_end(pids[0], deadline - time.monotonic())
        return []

    def stop(self) -> None:
        """End it as a service manager does; it must end well and leave nothing behind."""
        self.process.send_signal(signal.SIGTERM)
        assert self.wait_for_exit() == 0, self.log()
        assert self.wait_until_gone(timeout=2) == []

    def kill(self) -> None:
        """End all that is left of it, whatever its state."""
        self.http.close()
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


@contextmanager
def launched(*options: str, command: Sequence[str] = MAIN, **settings: str) -> Iterator[Server]:
    """Launch a server on a free port, not waiting for it; nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _END_WITH_US, *command, "--port", "0", *options],
        cwd=ROOT,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = Server(process)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def served(*options: str, command: Sequence[str] = MAIN, **settings: str) -> Iterator[Server]:
    """Launch a server and wait until it is ready; nothing of it outlives the block."""
    with launched(*options, command=command, **settings) as server:
        server.wait_until_ready()
        server.wait_until_idle()
        yield server


@contextmanager
def served_echo(*options: str, delay_ms: float = 0, workers: int = 2) -> Iterator[Server]:
    """A server with the echo engine."""
    with served("--echo-delay-ms", str(delay_ms), "--workers", str(workers), *options,
                MODEL_TYPE="echo") as server:  # fmt: skip
        yield server


def processes_of_session(session: int) -> list[int]:
    """The processes of a session, but for those that have ended and wait to be reaped."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and _session_of(int(folder.name)) == session:
            found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    return _session_of(pid) is not None


def _session_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything.
    state, _, _, session = stat.rpartition(b")")[2].split()[:4]
    return None if state in (b"Z", b"X") else int(session)


def wait_for_end(pid: int, timeout: float = DEADLINE_S) -> bool:
    """Wait until a process has ended, be it a child of ours or not; False if it has not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], max(0.0, timeout))[0])
    finally:
        os.close(descriptor)


def chat(text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat in the short form."""
    return {"messages": [{"role": "user", "content": text}], **more}


def long_chat(**more: Any) -> dict[str, Any]:
    """A chat that a slow echo server answers for longer than any test runs."""
    return chat("x" * 4000, max_tokens=4000, **more)


class Stream:
    """The events of a streamed response, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next event, as JSON; ``[DONE]`` as a string."""
        line = next(self._lines)
        assert line.startswith("data: "), line
        assert next(self._lines) == ""
        content = line.removeprefix("data: ")
        return content if content == "[DONE]" else json.loads(content)


@contextmanager
def streamed(
    server: Server, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> Iterator[Stream]:
    """Ask for a stream; the connection is closed at the end of the block."""
    with (
        httpx.Client(base_url=server.url, timeout=START_S) as client,
        client.stream("POST", path, json={"stream": True, **body}) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Stream(response)


def text_of(chunks: Sequence[Any], index: int = 0) -> str:
    """The text of one choice of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content", "") for c in choices if c["index"] == index)
