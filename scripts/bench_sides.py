"""The two sides that scripts/bench.py compares: ctransformers in process, and the server.

Run with a model file it is the first of them, so that nothing else runs in that process.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
N_CTX = 2048


def in_process(path: str) -> None:
    """Answer each line ``[loop, threads, prompt, n]`` of standard input with the time taken."""
    import numpy as np
    from ctransformers.llm import LLM, Config

    sys.path.insert(0, str(ROOT))
    from worker.engines.library import library_variant

    llm = LLM(
        path, "gguf", lib=library_variant(), config=Config(context_length=N_CTX, batch_size=64)
    )

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
        """Load the model."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run("bare", 1, "warm up", 4)

    def run(self, loop: str, threads: int, prompt: str, n: int) -> tuple[float, float]:
        """Seconds to the first token, tokens per second after it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([loop, threads, prompt, n]), file=self._process.stdin, flush=True)
        first, speed, _ = json.loads(self._process.stdout.readline())
        return first, speed

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


# ---- the server


class Server:
    """The server in its real form: a subprocess, reached over TCP."""

    def __init__(self, **settings: str) -> None:
        """Start it with these environment variables and wait until it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, "main.py", "--port", "0", "--context-length", str(N_CTX)],
            cwd=ROOT,
            env=os.environ | {"LOG_LEVEL": "warning"} | settings,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "is ready on" in line:
                self.port = int(line.strip().rpartition(":")[2])
                break
        else:
            raise SystemExit("the server did not start")
        # Until every worker is there.
        while '"starting"' in self.get("/ready"):
            pass
        self.pid = self._process.pid

    def get(self, path: str) -> str:
        """The body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def run(self, prompt: str, n: int) -> tuple[float, float]:
        """Stream a greedy completion; the same figures as `InProcess.run`."""
        started = time.perf_counter()
        body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True}
        times = []
        for line in self._lines(body):
            if b'"text":""' not in line:
                times.append(time.perf_counter())
        speed, count = rate(times)
        if count != n:
            raise SystemExit(f"the stream had {count} chunks of text, not {n}")
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

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait()


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
    in_process(sys.argv[1])
