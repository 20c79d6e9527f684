"""The same load on this server and on others, in turn in one run, and the ratios pair by pair."""

import math
import statistics
from collections.abc import Sequence

from gateway import machine
from scripts.bench_sides import Server
from scripts.benchmarks.conversations import hold, new_chats
from scripts.benchmarks.prompt_length import LENGTHS, cold_and_warm
from scripts.benchmarks.results import Results, Series
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import RequestFailed, Target, unlike_any
from scripts.benchmarks.throughput import PROMPT, STREAMS, http_speed

_LONGEST_WORDS = 1024
"""Other servers' contexts may be shorter than ours."""


def measure(setup: Setup, results: Results, urls: Sequence[str]) -> None:
    """Add the ratios of this server to each of ``urls``, and all curves.

    A server that fails a request has no value there; how often is noted.

    Raises:
        UsageError: a URL is no OpenAI-style server's.
    """
    others = [Target(url, url) for url in urls]
    with Server(MODEL_NAME=str(setup.model), WORKERS=str(machine.usable_cores())) as server:
        targets = [Target("this server", server.url), *others]
        _throughput(setup, results, targets)
        _ttft(setup, results, targets)
        _chats(setup, results, targets)


Rounds = list[dict[str, list[float]]]
"""For each round and each server's name its values."""


def _throughput(setup: Setup, results: Results, targets: Sequence[Target]) -> None:
    streams, n = STREAMS[: setup.choose(len(STREAMS), 2)], setup.choose(64, 16)

    def speeds(target: Target) -> list[float]:
        return [
            _tried(results, target, f"{count} streams", lambda t, k=count: _speed(t, k, n))
            for count in streams
        ]

    rounds = _in_turn(setup, targets, speeds)
    listed = " / ".join(map(str, streams))
    _add(results, targets, rounds, f"output tokens/s at {listed} streams")
    _curves(results, targets, rounds, "compare-throughput", streams)


def _speed(target: Target, streams: int, n: int) -> float:
    return http_speed(target, [PROMPT.format(unlike_any()) for _ in range(streams)], n)


def _ttft(setup: Setup, results: Results, targets: Sequence[Target]) -> None:
    fitting = [n for n in LENGTHS if n <= _LONGEST_WORDS]
    lengths = fitting[: setup.choose(len(fitting), 1)]

    def times(target: Target) -> list[float]:
        return [_tried(results, target, f"{n} words", lambda t, n=n: _cold(t, n)) for n in lengths]

    rounds = _in_turn(setup, targets, times)
    listed = " / ".join(map(str, lengths))
    _add(results, targets, rounds, f"TTFT of an unknown prompt of {listed} words")
    _curves(results, targets, rounds, "compare-ttft", lengths)


def _cold(target: Target, n_words: int) -> float:
    connection = target.connect()
    try:
        return cold_and_warm(connection, n_words)[0]
    finally:
        connection.close()


def _chats(setup: Setup, results: Results, targets: Sequence[Target]) -> None:
    def later_turns(target: Target) -> float:
        chats = new_chats(setup.choose(8, 2), setup.choose(96, 16))
        hold(target, chats, turns=setup.choose(4, 2), at_once=2, n=setup.choose(32, 4))
        times = [outcome.ttft_s for chat in chats for outcome in chat.outcomes[1:]]
        return statistics.median(ttft_s for ttft_s in times if ttft_s is not None)

    rounds = _in_turn(setup, targets, lambda t: [_tried(results, t, "chats", later_turns)])
    _add(results, targets, rounds, "interleaved chats, 2 running: TTFT of later turns")


def _tried(results: Results, target: Target, what: str, measure_one: object) -> float:
    """A value, or NaN and a note if the server failed."""
    assert callable(measure_one)
    try:
        value: float = measure_one(target)
    except RequestFailed as error:
        results.notes.append(f"{target.name}, {what}: {error}")
        return math.nan
    return value


def _in_turn(setup: Setup, targets: Sequence[Target], measure_all: object) -> Rounds:
    """Measure all servers one after another, again in each round, in alternating order."""
    assert callable(measure_all)
    rounds: Rounds = []
    n_warm_up = setup.choose(1, 0)
    for number in range(n_warm_up + setup.rounds):
        order = targets if number % 2 else targets[::-1]
        rounds.append({target.name: measure_all(target) for target in order})
    return rounds[n_warm_up:]


def _add(results: Results, targets: Sequence[Target], rounds: Rounds, what: str) -> None:
    ours, *others = targets
    for other in others:
        ratios = [
            [a / b for a, b in zip(one[ours.name], one[other.name], strict=True)] for one in rounds
        ]
        results.add("compare", f"{what}: this server ÷ {other.name}", *_medians(ratios))


def _curves(
    results: Results, targets: Sequence[Target], rounds: Rounds, plot: str, x: Sequence[float]
) -> None:
    for target in targets:
        y = _medians([one[target.name] for one in rounds])
        results.series.append(Series(plot, target.name, tuple(x), y))


def _medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of each column, without the rounds that failed."""
    columns = [[v for v in column if not math.isnan(v)] for column in zip(*rows, strict=True)]
    return tuple(statistics.median(column) if column else math.nan for column in columns)
