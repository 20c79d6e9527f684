"""What all parts of the benchmarks use: one run's settings, a server under load, the bare engine.

Run with a model file and a library it is the bare engine, alone in its process.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from scripts.client import Connection, model_of  # noqa: E402
from scripts.server import END_WITH_US, Server, ServerFailed, served  # noqa: E402
from scripts.transcript import Outcome, outcome  # noqa: E402

N_CTX = 2048
CORES = len(os.sched_getaffinity(0))
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
Messages = Sequence[dict[str, str]]
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
        return served(
            tree=tree,
            **{
                "LOG_LEVEL": "warning",
                "CONTEXT_LENGTH": str(N_CTX),
                "MODEL_NAME": self.model,
                **library,
                **settings,
            },
        )


def serve_echo(
    workers: int, delay_ms: float, max_queue: int = 0, tree: str = "", **settings: str
) -> AbstractContextManager[Server]:
    """The server with echo workers that run one request each, and speak at a pace."""
    return served(
        tree=tree,
        **{
            "MODEL_TYPE": "echo", "WORKERS": str(workers), "SLOTS": "1", "PARKED": "0",
            "ECHO_DELAY_MS": f"{delay_ms:g}", "MAX_QUEUE": str(max_queue), "LOG_LEVEL": "warning",
            "CONTEXT_LENGTH": "8192", **settings,
        },
    )  # fmt: skip


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

    def connect(self) -> "Target":
        """The same with a connection of its own, for one thread."""
        return Target(self.name, self.url)

    def close(self) -> None:
        self._connection.close()

    def complete(self, prompt: str, n: int, **more: Any) -> Outcome:
        return self._send(COMPLETIONS, prompt=prompt, max_tokens=n, **more)

    def chat(self, messages: Messages, n: int) -> Outcome:
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
        targets = [self.connect() for _ in works]
        with ThreadPoolExecutor(len(works)) as threads:
            results = list(threads.map(lambda work, to: work(to), works, targets))
        for target in targets:
            target.close()
        return results


def speed_of(seen: Outcome) -> float:
    """Tokens per second after the first."""
    return (len(seen.content_s) - 1) / (seen.content_s[-1] - seen.content_s[0])


def ttft_of(seen: Outcome) -> float:
    """Seconds to the first text.

    Raises:
        RequestFailed: it has no text.
    """
    if seen.ttft_s is None:
        raise RequestFailed(f"{seen.name}: the answer has no text")
    return seen.ttft_s


class BareEngine:
    """A process that runs ctransformers and nothing else."""

    def __init__(self, model: str, library: str = "") -> None:
        """Load a model; by default with the build of the library that the server chooses, too.

        Raises:
            ServerFailed: the process ended; it has said why on standard error.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-c", END_WITH_US, sys.executable, __file__, model, library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.run(1, "warm up", 4)
        except BaseException:
            self.close()
            raise

    def run(self, threads: int, prompt: str, n: int) -> dict[str, float]:
        """Evaluate a prompt and ``n`` tokens.

        Returns:
            Seconds to the first token (``first_s``), CPU seconds of the same (``first_cpu_s``),
            tokens in the prompt, and tokens per second after the first, by the clock and by CPU
            time (``speed``, ``cpu_speed``).

        Raises:
            ServerFailed: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps([threads, prompt, n]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the process that runs ctransformers has ended")
        times: dict[str, float] = json.loads(line)
        return times

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        # What a dead process did not read cannot be flushed.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> "BareEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_as_bare_engine(path: str, library: str) -> None:
    """Answer each line of standard input with the times taken."""
    import numpy as np
    from ctransformers.llm import LLM, Config

    from gateway.demo_model import default_cache_dir
    from shared.model.library import choose

    library = library or choose(os.environ.get("CT_LIB") or None, default_cache_dir()).path
    llm = LLM(path, "gguf", lib=library, config=Config(context_length=N_CTX, batch_size=64))

    def greedy(ids: Sequence[int], threads: int) -> Any:
        while True:
            llm.eval(ids, threads=threads)
            pointer, size = llm.ctransformers_llm_logits_data(), llm.vocab_size
            ids = [int(np.ctypeslib.as_array(pointer, shape=(size,)).argmax())]
            yield ids[0]

    for line in sys.stdin:
        threads, prompt, n = json.loads(line)
        llm._context.clear()
        # Its tokenizer takes milliseconds for what ours does in a fraction of one.
        ids = llm.tokenize(prompt)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        times = [
            (time.perf_counter(), time.process_time())
            for _, _ in zip(range(n), greedy(ids, threads), strict=False)
        ]
        (first_s, first_cpu_s), (last_s, last_cpu_s) = times[0], times[-1]
        n_more = max(1, len(times) - 1)
        answer = {
            "first_s": first_s - started_s,
            "first_cpu_s": first_cpu_s - cpu_s,
            "prompt_tokens": len(ids),
            "speed": n_more / max(last_s - first_s, 1e-9),
            "cpu_speed": n_more / max(last_cpu_s - first_cpu_s, 1e-9),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    answer_as_bare_engine(*sys.argv[1:])
