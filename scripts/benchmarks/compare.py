"""The same load on this server and on others, in turn in one run, and the ratios pair by pair."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Generic, Protocol, TypeVar

from scripts.benchmarks.processes import cost, pss_mib
from scripts.benchmarks.reuse import LENGTHS, cold_and_warm, hold, new_chats
from scripts.benchmarks.setup import CORES, RequestFailed, Setup, Target, serve_echo, ttft_of
from scripts.benchmarks.throughput import STORY, STREAMS
from scripts.figures import Results, Series, percentile
from scripts.prompts import unlike_any
from scripts.server import Server
from scripts.transcript import Outcome

OURS = "this server"
_LONGEST_WORDS = 1024
"""Other servers' contexts may be shorter than ours."""
_ECHO_WORKERS = 8
_N_WARM_UP, _PAUSE_S = 20, 0.02

Rounds = list[dict[str, list[float]]]
"""Of each round the values of each side, by its name; none where it failed."""


class Named(Protocol):
    """What can be compared."""

    name: str


Side = TypeVar("Side", bound=Named)


class Comparison(Generic[Side]):
    """Measures sides in turn; the first one is ours."""

    def __init__(
        self, setup: Setup, results: Results, part: str, sides: Sequence[Side], n_warm_up: int = 0
    ) -> None:
        self._setup, self._results, self._part, self.sides = setup, results, part, sides
        self._n_warm_up = n_warm_up

    def run(self, what: str, measure: Callable[[Side], list[float]], unit: str = "") -> None:
        """Add the ratios of ours to each of the others, and the medians of each side."""
        self.add(what, self.in_turn(what, measure), unit)

    def curves(
        self, what: str, plot: str, x: Sequence[int], measure: Callable[[Side], list[float]]
    ) -> None:
        """The same with a value for each of ``x``, and a curve of each side."""
        rounds = self.in_turn(what, measure)
        self.add(what.format(" / ".join(map(str, x))), rounds)
        self.draw(plot, x, rounds)

    def in_turn(self, what: str, measure: Callable[[Side], list[float]]) -> Rounds:
        """Measure all in each round, in alternating order.

        A side that fails a request has no value there; how often is noted.
        """
        rounds = []
        for number in range(self._n_warm_up + self._setup.rounds):
            order = self.sides if number % 2 else self.sides[::-1]
            rounds.append({side.name: self._tried(what, side, measure) for side in order})
        return rounds[self._n_warm_up :]

    def _tried(self, what: str, side: Side, measure: Callable[[Side], list[float]]) -> list[float]:
        try:
            return measure(side)
        except RequestFailed as error:
            self._results.notes.append(f"{side.name}, {what}: {error}")
            return []

    def add(self, what: str, rounds: Rounds, unit: str = "", goal: str = "") -> None:
        """Add the medians of the rounds' ratios and, with a unit, those of each side."""
        ours, *others = (side.name for side in self.sides if side.name in rounds[0])
        for other in others:
            pairs = [(one[ours], one[other]) for one in rounds if one[ours] and one[other]]
            ratios = [[a / b for a, b in zip(x, y, strict=True)] for x, y in pairs]
            name = f"{what}: {ours} ÷ {other}"
            self._results.add(self._part, name, *_medians(ratios), goal=goal)
            for name, side in ((ours, 0), (other, 1)) if unit else ():
                values = _medians([pair[side] for pair in pairs])
                self._results.add(self._part, f"{what}: {name}", *values, unit=unit)

    def draw(self, plot: str, x: Sequence[int], rounds: Rounds) -> None:
        """Add a curve of each side, the medians of the rounds."""
        for side in self.sides:
            y = _medians([one[side.name] for one in rounds if one[side.name]])
            self._results.series.append(Series(plot, side.name, tuple(x), y))


def measure_urls(setup: Setup, results: Results, urls: Sequence[str]) -> None:
    """Add the ratios of this server to OpenAI-style servers that run already, and all curves.

    Raises:
        ServerFailed: a URL is no such server's.
    """
    others = [Target(url, url) for url in urls]
    with setup.serve(WORKERS=str(CORES)) as server:
        targets = [Target(OURS, server.url), *others]
        _streams(setup, Comparison(setup, results, "compare", targets, setup.choose(1, 0)))


def measure_tree(setup: Setup, results: Results, tree: str) -> None:
    """Add the ratios of this tree's server to that of another checkout of the project."""
    sides = {OURS: "", tree: tree}
    pss = {}
    for name, folder in sides.items():
        # One at a time: pages of the model's file that both have are shared by both.
        with setup.serve(folder, WORKERS=str(CORES)) as server:
            pss[name] = pss_mib(server)
    what = f"Pss of all processes of an idle server, {CORES} workers and the default of others"
    results.add("against", f"{what}: {OURS} ÷ {tree}", pss[OURS] / pss[tree])
    for name, value in pss.items():
        results.add("against", f"{what}: {name}", value, unit="MiB", digits=0)

    with ExitStack() as running:
        servers = {
            name: running.enter_context(serve_echo(_ECHO_WORKERS, 10.0, 8, folder))
            for name, folder in sides.items()
        }
        targets = [Target(name, server.url) for name, server in servers.items()]
        comparison = Comparison(setup, results, "against", targets, setup.choose(1, 0))
        _gateway(setup, comparison, servers)
    with ExitStack() as running:
        targets = [
            Target(name, running.enter_context(setup.serve(folder, WORKERS=str(CORES))).url)
            for name, folder in sides.items()
        ]
        _streams(setup, Comparison(setup, results, "against", targets, setup.choose(1, 0)))


def _gateway(setup: Setup, comparison: Comparison[Target], servers: dict[str, Server]) -> None:
    tokens = setup.choose(200, 20)

    def cpu(target: Target) -> list[float]:
        seen = cost(servers[target.name], _ECHO_WORKERS, tokens)
        if seen.errors:
            raise RequestFailed(f"{seen.errors} streams failed")
        return [seen.us_per_token, seen.us_per_request]

    what = f"gateway CPU per token / per request, {_ECHO_WORKERS} echo streams"
    comparison.run(what, cpu, "µs")

    def ttft(target: Target) -> list[float]:
        times_ms = _idle_ttft_ms(target, setup.choose(100, 10))
        return [percentile(times_ms, percent) for percent in (50, 99)]

    comparison.run("TTFT of an idle server, echo engine with 10 ms a token, p50 / p99", ttft, "ms")


def _idle_ttft_ms(target: Target, n: int) -> list[float]:
    """Milliseconds to the first text, again and again, a pause before each.

    So the server is idle: nothing is warmer than a user who comes alone would find it.
    """
    times_ms = []
    for _ in range(_N_WARM_UP + n):
        time.sleep(_PAUSE_S)
        times_ms.append(ttft_of(target.complete(f"{unlike_any()} there was a sea", 2)) * 1e3)
    return times_ms[_N_WARM_UP:]


def _streams(setup: Setup, comparison: Comparison[Target]) -> None:
    streams, n = STREAMS[: setup.choose(len(STREAMS), 2)], setup.choose(64, 16)
    fitting = [length for length in LENGTHS if length <= _LONGEST_WORDS]
    lengths = fitting[: setup.choose(len(fitting), 1)]

    def speeds(target: Target) -> list[float]:
        return [_speed(target, count, n) for count in streams]

    def times(target: Target) -> list[float]:
        return [cold_and_warm(target, n_words)[0] for n_words in lengths]

    def later_turns(target: Target) -> list[float]:
        chats = new_chats(setup.choose(8, 2), setup.choose(96, 16))
        hold(target, chats, turns=setup.choose(4, 2), at_once=2, n=setup.choose(32, 4))
        found = [outcome.ttft_s for chat in chats for outcome in chat.outcomes[1:]]
        return [statistics.median(ttft_s for ttft_s in found if ttft_s is not None)]

    comparison.curves("output tokens/s at {} streams", "compare-throughput", streams, speeds)
    comparison.curves("TTFT of an unknown prompt of {} words", "compare-ttft", lengths, times)
    comparison.run("interleaved chats, 2 running: TTFT of later turns", later_turns)


def _speed(target: Target, streams: int, n: int) -> float:
    """Output tokens per second of so many streams at once."""

    def work(to: Target) -> Outcome:
        return to.complete(STORY.format(unlike_any()), n)

    seen = target.side_by_side([work] * streams)
    took_s = max(each.ended_s for each in seen) - min(each.started_s for each in seen)
    return sum(each.completion_tokens for each in seen) / took_s


def _medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of each column; NaN if there is no row."""
    return tuple(map(statistics.median, zip(*rows, strict=True))) or (math.nan,)
