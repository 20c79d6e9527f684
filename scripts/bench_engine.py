"""Compares the native build of the engine's library with ctransformers' own, by turns.

Each library has a process of its own, and both evaluate the same tokens in every round: a prompt of
512 tokens, and single tokens behind 64. Run with a library and a model it is one of the two.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from gateway import demo_model  # noqa: E402
from shared.config import WorkerConfig  # noqa: E402
from shared.errors import UsageError  # noqa: E402
from shared.model.library import (  # noqa: E402
    Cpu,
    choose,
    package_library,
)

N_CTX = 1024
PROMPT_TOKENS = 512
PAST_TOKENS = 64
DECODE_TOKENS = 48
GOALS = {"prefill": 1.10, "decode": 1.05}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the table.

    Attributes:
        what: ``prefill`` or ``decode``.
        threads: of each evaluation.
        package: tokens per second of ctransformers' own library, the median of all rounds.
        native: the same of the native build.
        ratio: CPU time of the first divided by that of the second, the median of the rounds'.
    """

    what: str
    threads: int
    package: float
    native: float
    ratio: float


def compare(
    package: str, native: str, model: Path, threads: Sequence[int] = (1, 2), rounds: int = 5
) -> list[Comparison]:
    """Measure two libraries by turns.

    Args:
        package: path of ctransformers' own library.
        native: path of the other.
        model: a model file that the engine can load.
        threads: how many each evaluation uses, one row for each.
        rounds: how often; the first one, which warms up, does not count.
    """
    sides = [Side(package, model), Side(native, model)]
    rows = []
    try:
        for what in GOALS:
            for n_threads in threads:
                times = [[side.run(what, n_threads) for side in sides] for _ in range(rounds + 1)]
                n_tokens = PROMPT_TOKENS if what == "prefill" else DECODE_TOKENS
                speeds = [
                    n_tokens / statistics.median(t[at][0] for t in times[1:]) for at in (0, 1)
                ]
                ratio = statistics.median(theirs[1] / ours[1] for theirs, ours in times[1:])
                rows.append(Comparison(what, n_threads, speeds[0], speeds[1], ratio))
    finally:
        for side in sides:
            side.close()
    return rows


def table(rows: Sequence[Comparison]) -> str:
    """Spell rows in Markdown."""
    lines = [
        "| what | threads | ctransformers' library | native build | ratio | to reach |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.threads} | {row.package:.1f} tokens/s | {row.native:.1f} tokens/s"
        f" | {row.ratio:.2f} | ≥ {GOALS[row.what]:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


class Side:
    """A process with one of the libraries."""

    def __init__(self, library: str, model: Path) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", library, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, what: str, threads: int) -> tuple[float, float]:
        """Return seconds by the clock, and of CPU time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, threads]) + "\n")
        self._process.stdin.flush()
        wall, cpu = json.loads(self._process.stdout.readline())
        return wall, cpu

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answer(library: str, model: Path) -> None:
    """Answer each line ``[what, threads]`` of standard input with the time taken."""
    import numpy as np

    from worker.engines.base import SlotTokens
    from worker.engines.ctransformers import CTransformersEngine

    engine = CTransformersEngine(
        WorkerConfig("ctransformers", str(model), n_ctx=N_CTX, library=library)
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, engine.info.n_vocab, PROMPT_TOKENS).tolist()

    def forward(tokens: list[int], threads: int) -> None:
        while tokens:
            n = engine.chunk_size(0)
            engine.forward([SlotTokens(0, tokens[:n])], threads)
            tokens = tokens[n:]

    for line in sys.stdin:
        what, threads = json.loads(line)
        # A token that no prompt begins with empties the cache.
        engine.reuse_prefix(0, [0, 0])
        prompt = tokens
        if what == "decode":
            forward(tokens[:PAST_TOKENS], threads)
            prompt = tokens[PAST_TOKENS : PAST_TOKENS + DECODE_TOKENS]
        started, cpu = time.perf_counter(), time.process_time()
        if what == "prefill":
            forward(prompt, threads)
        else:
            for token in prompt:
                forward([token], threads)
        print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]), flush=True)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model file (default: the demo model)")
    parser.add_argument("--native", help="a library to compare (default: the one in the cache)")
    parser.add_argument("--package", help="default: ctransformers' own for this CPU")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        answer(options.side[0], Path(options.side[1]))
        return 0
    try:
        package = (
            choose(options.package, Path()) if options.package else package_library(Cpu.here())
        )
        native = choose(options.native, demo_model.default_cache_dir())
        model = options.model or demo_model.fetch()
    except UsageError as error:
        print(f"bench_engine: {error}", file=sys.stderr)
        return 2
    if native.path == package.path:
        print("bench_engine: no native build; run `ggml-fastapi build-engine`", file=sys.stderr)
        return 2
    print(table(compare(package.path, native.path, model, options.threads, options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
