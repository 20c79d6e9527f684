"""What all parts of the benchmarks use: one run's settings, and a server under load."""

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scripts.client import Connection, model_of
from scripts.server import Server, ServerFailed, served
from scripts.transcript import Outcome, outcome

N_CTX = 2048
CORES = len(os.sched_getaffinity(0))
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
Result = TypeVar("Result")


class RequestFailed(Exception):
    """A request of a benchmark was not answered as it must be, so its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One run of the benchmarks."""

    model: str  #: a model file
    rounds: int  #: how often each pair of measurements is made, besides one to warm up
    quick: bool = False  #: shorter texts and fewer points, to try the benchmarks themselves

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def serve(self, tree: str = "", **settings: str) -> AbstractContextManager[Server]:
        library = {"CT_LIB": os.environ["CT_LIB"]} if os.environ.get("CT_LIB") else {}
        common = {"LOG_LEVEL": "warning", "CONTEXT_LENGTH": str(N_CTX), "MODEL_NAME": self.model}
        return served(tree=tree, **{**common, **library, **settings})


def serve_echo(
    workers: int, delay_ms: float, max_queue: int = 0, tree: str = "", **settings: str
) -> AbstractContextManager[Server]:
    """The server with echo workers that run one request each, and speak at a pace."""
    common = {
        "MODEL_TYPE": "echo", "WORKERS": str(workers), "SLOTS": "1", "PARKED": "0",
        "ECHO_DELAY_MS": f"{delay_ms:g}", "MAX_QUEUE": str(max_queue), "LOG_LEVEL": "warning",
        "CONTEXT_LENGTH": "8192",
    }  # fmt: skip
    return served(tree=tree, **{**common, **settings})


def describe_machine(model: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    return (
        f"{cpu}, {CORES} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, {model}, context {N_CTX}"
    )


class Target:
    """An OpenAI-style server, ours or another."""

    def __init__(self, name: str, url: str) -> None:
        """Ask the server for its model.

        Raises:
            ServerFailed: no such server answers there.
        """
        self.name, self.url = name, url
        try:
            self._connection = Connection(url)
            self._model = model_of(self._connection)
        except (ValueError, OSError) as error:
            raise ServerFailed(f"no OpenAI-style server answers at {url}: {error}") from error

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def close(self) -> None:
        self._connection.close()

    def complete(self, prompt: str, n: int, **more: Any) -> Outcome:
        return self._send(COMPLETIONS, prompt=prompt, max_tokens=n, **more)

    def chat(self, messages: Sequence[dict[str, str]], n: int) -> Outcome:
        return self._send(CHAT, messages=list(messages), max_tokens=n)

    def _send(self, path: str, **content: Any) -> Outcome:
        """Stream an answer.

        Raises:
            RequestFailed: it is not complete.
        """
        body = {
            "model": self._model, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}, **content,
        }  # fmt: skip
        seen = outcome(path, self._connection.post(path, body), path)
        if seen.kind != "completed":
            raise RequestFailed(f"{seen.name}: {seen.kind}, {seen.code} {seen.detail}")
        return seen

    def side_by_side(self, works: Sequence[Callable[["Target"], Result]]) -> list[Result]:
        """Do each of ``works`` in a thread with a connection, all at the same time."""
        targets = [Target(self.name, self.url) for _ in works]
        with ThreadPoolExecutor(len(works)) as threads:
            results = list(threads.map(lambda work, to: work(to), works, targets))
        for target in targets:
            target.close()
        return results


def ttft_of(seen: Outcome) -> float:
    """Seconds to the first text.

    Raises:
        RequestFailed: it has no text.
    """
    if seen.ttft_s is None:
        raise RequestFailed(f"{seen.name}: the answer has no text")
    return seen.ttft_s
