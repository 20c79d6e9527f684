"""Servers for tests, and how tests speak with them."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from scripts import server as servers
from scripts.processes import is_alive, processes_of_session, wait_for_end
from scripts.server import DEADLINE_S, MAIN, ROOT, START_S, launch

__all__ = (
    "DEADLINE_S", "MAIN", "ROOT", "START_S", "Server", "Stream", "chat", "environment", "is_alive",
    "launched", "long_chat", "processes_of_session", "run_main", "served", "served_echo",
    "streamed", "text_of", "wait_for_end",
)  # fmt: skip


def environment(**settings: str) -> dict[str, str]:
    """The environment of a server: ours, but no setting other than those given.

    A server has one parked worker, so that the tests do not spend their time on starting more; and
    one thread for an evaluation, since threads spin where they wait for one another, while servers
    of tests that run side by side wait for a processor.
    """
    return servers.environment(**{"PARKED": "1", "THREADS": "1", **settings})


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


class Server(servers.Server):
    """A running server with a client, ``http``, for its URL."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(process)
        self.http = httpx.Client(timeout=START_S)

    def wait_until_ready(self, timeout: float = START_S) -> None:
        super().wait_until_ready(timeout)
        self.http.base_url = self.url

    def get(self, path: str) -> Any:
        return self.http.get(path).json()

    @property
    def model(self) -> str:
        """The id of the model that is served."""
        return str(self.get("/v1/models")["data"][0]["id"])

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

    def stop(self) -> None:
        """End it as a service manager does; it must end well and leave nothing behind."""
        self.process.send_signal(signal.SIGTERM)
        assert self.wait_for_exit() == 0, self.log()
        assert self.wait_until_gone(timeout=2) == []

    def kill(self) -> None:
        self.http.close()
        super().kill()


@contextmanager
def launched(*options: str, command: Sequence[str] = MAIN, **settings: str) -> Iterator[Server]:
    """Launch a server on a free port, not waiting for it; nothing of it outlives the block.

    A worker has one slot unless ``SLOTS`` says otherwise: tests count on what runs and what waits.
    """
    env = environment(**{"SLOTS": "1", **settings})
    server = Server(launch(*options, command=command, env=env))
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
