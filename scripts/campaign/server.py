"""A server under a campaign: a real one, in a session of its own."""

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from gateway.settings import Settings
from scripts.bench_sides import END_WITH_US, ROOT
from scripts.campaign.processes import processes_of_session

START_WITHIN_S = 60.0
END_WITHIN_S = 20.0
_MISTAKES = ("Traceback", "Fatal error", "never retrieved")
_REQUEST_LINE = re.compile(r" gateway\.(access|http\.\S+): ")
_READY = re.compile(r"ggml-fastapi is ready on http://\S+?:(\d+)\n")
_REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class CampaignError(Exception):
    """The campaign cannot go on; the text says why."""


class CampaignServer:
    """A running server.

    Attributes:
        pid: of the gateway, and the number of the session.
        port: where it listens on this machine.
        log: what it has written to standard error.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Wait until ``process`` says where it listens.

        Raises:
            CampaignError: it does not.
        """
        self._process = process
        self.pid = process.pid
        self.log = log
        self.port = self._await_port()

    @property
    def is_alive(self) -> bool:
        """Whether the gateway runs."""
        return self._process.poll() is None

    def zygotes(self) -> list[int]:
        """The processes that workers can be forked from now: not one that still loads."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2) as response:
                status = json.load(response)
        except HTTPError as error:
            status = json.load(error)
        except OSError:
            return []
        zygote = status.get("zygote", {})
        return [zygote["pid"]] if zygote.get("is_loaded") else []

    def mistakes(self) -> list[str]:
        """Lines of the log that tell of a mistake in the server, however it went on."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if any(text in line for text in _MISTAKES)]

    def last_words(self, n_lines: int = 20) -> str:
        """The end of the log, without its lines about requests."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join([line for line in lines if not _REQUEST_LINE.search(line)][-n_lines:])

    def log_around(self, line: str, n_lines: int = 20) -> str:
        """The log from a line on."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        first = max(0, lines.index(line) - 2)
        return "\n".join(lines[first : first + n_lines])

    def terminate(self, within_s: float = END_WITHIN_S) -> tuple[int | None, float]:
        """Ask the gateway to end; returns its exit status, None if it does not, and the seconds."""
        started_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within_s), time.monotonic() - started_s
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - started_s

    def left_after(self, within_s: float) -> list[int]:
        """The processes of the session that are left so many seconds from now."""
        deadline_s = time.monotonic() + within_s
        while (left := processes_of_session(self.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return left

    def _await_port(self) -> int:
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        said, deadline_s = "", time.monotonic() + START_WITHIN_S
        while not (found := _READY.search(said)):
            said += (self._process.stdout.read() or b"").decode()
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise CampaignError(f"the server did not start:\n{said}{self.last_words()}")
            time.sleep(0.02)
        return int(found[1])


@contextmanager
def campaign_server(**settings: str) -> Iterator[CampaignServer]:
    """Start a server on a free port; nothing of it outlives the block.

    Args:
        settings: environment variables; of the caller's own settings it inherits none.

    Raises:
        CampaignError: it does not start.
    """
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", END_WITH_US, sys.executable, "main.py", "--port", "0"],
                cwd=ROOT,
                env={**inherited, "PYTHONUNBUFFERED": "1", **settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            yield CampaignServer(process, log)
        finally:
            for pid in processes_of_session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Probe:
    """A kept connection that asks for JSON, with next to no work for either side."""

    def __init__(self, port: int) -> None:
        """Prepare; nothing is connected."""
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, path: str = "/ready", within_s: float = 5.0) -> Any:
        """The JSON at ``path``, whatever its status.

        Raises:
            OSError: the server cannot be reached, or does not answer in time.
        """
        try:
            return await asyncio.wait_for(self._get(path), within_s)
        except asyncio.TimeoutError:
            self.close()
            raise ConnectionError(f"GET {path} has no answer after {within_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            # A kept connection may be closed at any time.
            self.close()
            try:
                return await asyncio.wait_for(self._get(path), within_s)
            except (asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                self.close()
                raise ConnectionError(f"GET {path}: {error!r}") from None

    async def until(
        self, condition: Callable[[Any], bool], within_s: float, every_s: float = 0.005
    ) -> Any:
        """Ask ``/ready`` until what it says meets a condition; None if it does not in time."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            with suppress(OSError):
                status = await self.get()
                if condition(status):
                    return status
            await asyncio.sleep(every_s)
        return None

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _get(self, path: str) -> Any:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(_REQUEST % path.encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise ConnectionError(f"GET {path}: no content-length in {head!r}")
        return json.loads(await self._reader.readexactly(int(length[1])))


def is_idle(status: Any) -> bool:
    """Whether nothing runs or waits, and every worker is there."""
    return (
        status["waiting"] == 0
        and status["running"] == 0
        and all(worker["state"] == "idle" for worker in status["workers"])
    )
