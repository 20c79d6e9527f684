"""Time to first token by the length of the prompt, with nothing of it known and nearly all."""

import statistics

from scripts.bench_sides import Server
from scripts.benchmarks.results import Results, Series
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import Connection, Target, ttft_of, unlike_any, words

LENGTHS = (64, 256, 512, 1024, 1536)
"""Of the prompts, in words, which is about tokens."""


def measure(setup: Setup, results: Results) -> None:
    """Add the curves of TTFT by prompt length, with and without reuse."""
    with Server(MODEL_NAME=str(setup.model)) as server:
        target = Target("this server", server.url)
        lengths = LENGTHS[: setup.choose(len(LENGTHS), 2)]
        connection = target.connect()
        pairs = [
            [cold_and_warm(connection, n_words) for n_words in lengths]
            for _ in range(setup.choose(min(setup.rounds, 3), 1))
        ]
        connection.close()
    for column, label in enumerate(("without reuse", "with reuse")):
        y = tuple(statistics.median(row[k][column] for row in pairs) for k in range(len(lengths)))
        results.series.append(Series("ttft", label, lengths, y))
    ratio = statistics.median(row[-1][1] / row[-1][0] for row in pairs)
    name = f"TTFT of {lengths[-1]} words, all but the last 8 words known ÷ nothing known"
    results.add("lengths", name, ratio)


def cold_and_warm(connection: Connection, n_words: int) -> tuple[float, float]:
    """Seconds to the first text of an unknown prompt, then of one that differs at its end only.

    Raises:
        RequestFailed: there was none.
    """
    known = f"{unlike_any()} {words(n_words - 9)}"
    cold = ttft_of(connection.complete(f"{known} {words(8, salt=3)}", 2))
    return cold, ttft_of(connection.complete(f"{known} {words(8, salt=5)}", 2))
