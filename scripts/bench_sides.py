"""The two sides that the benchmarks compare: ctransformers in process, and the server.

Run with a model file it is the first of them, so that nothing else runs in that process.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
N_CTX = 2048
START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 120.0
# Runs a command that is told to end when this process does, however that may be (prctl's
# PR_SET_PDEATHSIG is 1): benchmarks that are killed must not leave servers behind.
END_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


class ServerFailed(Exception):
    """A process under measurement did not start, ended, or answered what it must not."""


def in_process(path: str, library: str) -> None:
    """Answer each line ``[loop, threads, prompt, n]`` of standard input with the time taken."""
    import numpy as np
    from ctransformers.llm import LLM, Config

    llm = LLM(path, "gguf", lib=library, config=Config(context_length=N_CTX, batch_size=64))

    def bare(ids: Sequence[int], threads: int) -> Any:
        while True:
            llm.eval(ids, threads=threads)
            pointer, size = llm.ctransformers_llm_logits_data(), llm.vocab_size
            ids = [int(np.ctypeslib.as_array(pointer, shape=(size,)).argmax())]
            yield ids[0]

    for line in sys.stdin:
        loop, threads, prompt, n = json.loads(line)
        llm._context.clear()
        # Its tokenizer takes milliseconds for what ours does in a fraction of one.
        ids = llm.tokenize(prompt)
        started = time.perf_counter()
        if loop == "generate":
            tokens = llm.generate(ids, top_k=1, repetition_penalty=1.0, threads=threads)
        else:
            tokens = bare(ids, threads)
        times = [time.perf_counter() for _, _ in zip(range(n), tokens, strict=False)]
        print(json.dumps([times[0] - started, *rate(times)]), flush=True)


def rate(times: Sequence[float]) -> tuple[float, int]:
    """Tokens per second after the first, and how many tokens there were."""
    return (len(times) - 1) / (times[-1] - times[0]), len(times)


class InProcess:
    """A process that runs ctransformers and nothing else."""

    def __init__(self, model: Path) -> None:
        """Load the model, with the build of the library that the server chooses, too.

        Raises:
            ServerFailed: the process ended; it has said why on standard error.
        """
        from gateway.demo_model import default_cache_dir
        from shared.model.library import choose

        library = choose(os.environ.get("CT_LIB") or None, default_cache_dir()).path
        self._process = subprocess.Popen(
            [sys.executable, "-c", END_WITH_US, sys.executable, __file__, str(model), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.run("bare", 1, "warm up", 4)
        except BaseException:
            self.close()
            raise

    def run(self, loop: str, threads: int, prompt: str, n: int) -> tuple[float, float]:
        """Seconds to the first token, tokens per second after it.

        Raises:
            ServerFailed: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps([loop, threads, prompt, n]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise ServerFailed("the process that runs ctransformers has ended") from None
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the process that runs ctransformers has ended")
        first, speed, _ = json.loads(line)
        return first, speed

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        # What a dead process did not read cannot be flushed.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> "InProcess":
        """Leave it to a ``with`` block to end it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


# ---- the server


class Server:
    """The server in its real form: a subprocess, reached over TCP."""

    def __init__(
        self, *, n_ctx: int = N_CTX, port: int = 0, wait: bool = True, **settings: str
    ) -> None:
        """Start it, and wait until every worker is ready.

        Args:
            n_ctx: context length in tokens.
            port: where it listens; 0 lets the system choose.
            wait: else it is only started, on a port that must be given.
            settings: environment variables.

        Raises:
            ServerFailed: it did not start, or not in time; standard error may say why.
        """
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", END_WITH_US, sys.executable, "main.py"),
                *("--port", str(port), "--context-length", str(n_ctx)),
            ],
            cwd=ROOT,
            env=os.environ | {"LOG_LEVEL": "warning"} | settings,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = port
        self.pid = self._process.pid
        if not wait:
            return
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "is ready on" in line:
                self.port = int(line.strip().rpartition(":")[2])
                break
        else:
            raise ServerFailed("the server did not start")
        deadline = time.monotonic() + START_WITHIN_S
        while '"starting"' in self.get("/ready"):
            if time.monotonic() > deadline:
                raise ServerFailed(f"not all workers were ready within {START_WITHIN_S:.0f} s")
            time.sleep(0.005)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> dict[str, Any]:
        """What ``GET /ready`` says.

        Raises:
            OSError: it does not listen yet.
        """
        content: dict[str, Any] = json.loads(self.get("/ready"))
        return content

    def get(self, path: str) -> str:
        """The body of a GET."""
        return self._ask("GET", path, b"")

    def post(self, path: str, body: bytes) -> str:
        """The body of what a POST of JSON is answered with."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: bytes) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_WITHIN_S)
        with closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return connection.getresponse().read().decode()

    def run(self, prompt: str, n: int) -> tuple[float, float]:
        """Stream a greedy completion; the same figures as `InProcess.run`.

        Raises:
            ServerFailed: it has not ``n`` chunks of text.
        """
        started = time.perf_counter()
        body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True}
        times = []
        for line in self._lines(body):
            if b'"text":""' not in line:
                times.append(time.perf_counter())
        if len(times) != n:
            raise ServerFailed(f"the stream had {len(times)} chunks of text, not {n}")
        speed, _ = rate(times)
        return times[0] - started, speed

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed completion."""
        for line in self._lines(body):
            yield json.loads(line.removeprefix(b"data: "))

    def _lines(self, body: dict[str, Any]) -> Iterator[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                yield line
        connection.close()

    def cpu_seconds(self) -> float:
        """CPU time that the gateway process has used."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def resident_bytes(self, peak: bool = False) -> int:
        """Memory that the gateway process holds, or the most that it has ever held.

        Raises:
            ServerFailed: the process has ended.
        """
        key = "VmHWM:" if peak else "VmRSS:"
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
        raise ServerFailed("the server has ended")

    def close(self) -> None:
        """End the server."""
        assert self._process.stdout is not None
        self._process.terminate()
        try:
            self._process.wait(START_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Server":
        """Leave it to a ``with`` block to end it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.close()


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def side_by_side(*runs: Callable[[], tuple[float, float]]) -> float:
    """Total tokens per second of runs at the same time."""
    speeds: list[float] = []
    threads = [threading.Thread(target=lambda run=run: speeds.append(run()[1])) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(speeds)


if __name__ == "__main__":
    in_process(*sys.argv[1:])
