"""The bare engine, for comparisons; run with a model file and a library it is that process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from scripts.benchmarks.setup import N_CTX  # noqa: E402
from scripts.server import END_WITH_US, ServerFailed  # noqa: E402


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
