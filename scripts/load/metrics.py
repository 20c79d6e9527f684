"""The figures of a load test, computed from its outcomes. Pure: no clock, no I/O.

Latencies are those of requests that began in the window and are complete. Inter-token latencies and
rates are pooled over the window: every gap and every token in it counts once, whichever request it
belongs to, also one that the window's end cut off.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.load.outcome import Kind, Outcome

LIMITED = ("ttft", "tpot", "e2el")
"""What an objective may limit."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is measured, on the outcomes' clock, in seconds.

    Attributes:
        start_s: what began before is warm-up.
        end_s: what ends after was not seen to end.
    """

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it is; at least a nanosecond, so that rates can be told."""
        return max(self.end_s - self.start_s, 1e-9)

    def holds(self, at_s: float) -> bool:
        """Whether a moment lies in it."""
        return self.start_s <= at_s <= self.end_s


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a good request keeps to, in milliseconds; None is no limit.

    Attributes:
        ttft: time to the first text.
        tpot: time for each token after the first.
        e2el: time to the end.
    """

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Objectives":
        """Read e.g. ``ttft:500,tpot:100,e2el:5000``.

        Raises:
            ValueError: the text is not of that form; the message says what is wrong.
        """
        limits: dict[str, float] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.strip().partition(":")
            if name not in LIMITED or name in limits:
                raise ValueError(f"{part!r}: write each of {', '.join(LIMITED)} at most once")
            try:
                limits[name] = float(value)
            except ValueError:
                limits[name] = math.nan
            if not limits[name] > 0:
                raise ValueError(f"{part!r}: a limit is a number of milliseconds above 0")
        return cls(**limits)

    def are_met(self, outcome: Outcome) -> bool:
        """Whether a complete request keeps to every limit.

        One without text has no first token to wait for, and so fails a limit on that; one of a
        single token has no time per further token, and so keeps to any.
        """
        ttft_s, tpot_s = outcome.ttft_s, outcome.tpot_s
        return (
            outcome.kind == "completed"
            and (self.ttft is None or (ttft_s is not None and ttft_s * 1e3 <= self.ttft))
            and (self.tpot is None or tpot_s is None or tpot_s * 1e3 <= self.tpot)
            and (self.e2el is None or outcome.e2el_s * 1e3 <= self.e2el)
        )


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some values of one kind, in milliseconds; NaN where there is none.

    Attributes:
        count: how many.
        mean: their mean.
        median: their median.
        std: their standard deviation, as of a whole population.
        p50: the 50th percentile, which is the median again.
        p90: the 90th, interpolated linearly as the others.
        p95: the 95th.
        p99: the 99th.
    """

    count: int
    mean: float
    median: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Distribution":
        """Describe values that are given in seconds."""
        values = sorted(value * 1e3 for value in seconds)
        if not values:
            return cls(0, *[math.nan] * 7)
        mean = math.fsum(values) / len(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        p50, p90, p95, p99 = (percentile(values, percent) for percent in (50, 90, 95, 99))
        return cls(len(values), mean, p50, std, p50, p90, p95, p99)


@dataclass(frozen=True, slots=True)
class Summary:
    """A load test, or one step of a sweep.

    Attributes:
        users: how many there were; 0 for an open loop.
        seconds: the length of the window.
        completed: requests that began in the window and are complete.
        failed: those that failed.
        refused: those that got a 429.
        unavailable: those that got a 503.
        disconnected: those that the client closed on purpose.
        incomplete: those that were running when the test ended.
        short: complete ones with fewer tokens than were asked for.
        refused_without_retry_after: refusals that did not say when to come again.
        request_throughput: ends of complete requests in a second.
        request_goodput: the same, of those that keep to the objectives.
        output_throughput: generated tokens in a second.
        total_token_throughput: the same with the tokens of the prompts.
        output_throughput_per_user: tokens in a second, once the first is there, that one request
            sees.
        prompt_tokens: of complete requests.
        cached_tokens: how many of these were not evaluated.
        completion_tokens: of complete requests.
        tokens_counted_by: ``usage``, ``chunks`` where no server said it, or ``usage and chunks``.
        peak_concurrency: the most requests at once.
        ttft: time to first token.
        tpot: time per token after the first.
        itl: gaps between chunks with text.
        e2el: end-to-end latency.
        error_code_frequency: how often each code made a request fail.
    """

    users: int
    seconds: float
    completed: int
    failed: int
    refused: int
    unavailable: int
    disconnected: int
    incomplete: int
    short: int
    refused_without_retry_after: int
    request_throughput: float
    request_goodput: float
    output_throughput: float
    total_token_throughput: float
    output_throughput_per_user: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens_counted_by: str
    peak_concurrency: int
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2el: Distribution
    error_code_frequency: dict[str, int]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of ``ordered`` lie, interpolated linearly.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values, no percentile")
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def peak_concurrency(outcomes: Iterable[Outcome], window: Window) -> int:
    """The most requests at once within the window."""
    changes: list[tuple[float, int]] = []
    for outcome in outcomes:
        if outcome.started_s <= window.end_s and outcome.ended_s >= window.start_s:
            # At the same instant one ends before another begins.
            changes += [(outcome.started_s, 1), (outcome.ended_s, -1)]
    running = peak = 0
    for at_s, change in sorted(changes):
        running += change
        if at_s <= window.end_s:
            peak = max(peak, running)
    return peak


def summarize(
    outcomes: Sequence[Outcome], window: Window, objectives: Objectives, users: int = 0
) -> Summary:
    """Compute the figures of a window.

    Args:
        outcomes: all of the test, in any order.
        window: what to look at.
        objectives: what counts as good.
        users: goes into the summary.
    """
    begun = [outcome for outcome in outcomes if window.holds(outcome.started_s)]
    kinds: Counter[Kind] = Counter(outcome.kind for outcome in begun)
    completed = [outcome for outcome in begun if outcome.kind == "completed"]
    ended = [o for o in outcomes if o.kind == "completed" and window.holds(o.ended_s)]
    n_output = n_prompt = 0.0
    gaps_s: list[float] = []
    for outcome in outcomes:
        held = sum(window.holds(at_s) for at_s in outcome.content_s)
        n_output += held * outcome.tokens_per_chunk
        if outcome.content_s and window.holds(outcome.content_s[0]):
            n_prompt += outcome.prompt_tokens
        gaps_s += [
            gap
            for gap, at_s in zip(outcome.gaps_s, outcome.content_s[1:], strict=True)
            if window.holds(at_s)
        ]
    decoding = [(o.completion_tokens - 1, o.tpot_s) for o in completed if o.tpot_s is not None]
    decode_s = sum(n * tpot_s for n, tpot_s in decoding)
    sources = {"usage" if o.has_usage else "chunks" for o in completed}
    return Summary(
        users=users,
        seconds=window.seconds,
        completed=len(completed),
        failed=kinds["failed"],
        refused=kinds["refused"],
        unavailable=kinds["unavailable"],
        disconnected=kinds["disconnected"],
        incomplete=kinds["incomplete"],
        short=sum(outcome.is_short for outcome in completed),
        refused_without_retry_after=sum(
            outcome.kind == "refused" and not outcome.retry_after for outcome in begun
        ),
        request_throughput=len(ended) / window.seconds,
        request_goodput=sum(map(objectives.are_met, ended)) / window.seconds,
        output_throughput=n_output / window.seconds,
        total_token_throughput=(n_output + n_prompt) / window.seconds,
        output_throughput_per_user=sum(n for n, _ in decoding) / decode_s if decode_s else 0.0,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in completed),
        cached_tokens=sum(outcome.cached_tokens for outcome in completed),
        completion_tokens=sum(outcome.completion_tokens for outcome in completed),
        tokens_counted_by=" and ".join(sorted(sources, reverse=True)) or "usage",
        peak_concurrency=peak_concurrency(outcomes, window),
        ttft=Distribution.of(o.ttft_s for o in completed if o.ttft_s is not None),
        tpot=Distribution.of(o.tpot_s for o in completed if o.tpot_s is not None),
        itl=Distribution.of(gaps_s),
        e2el=Distribution.of(outcome.e2el_s for outcome in completed),
        error_code_frequency=dict(
            sorted(Counter(o.code for o in begun if o.kind == "failed").items())
        ),
    )
