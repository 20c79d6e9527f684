"""The figures of a load test, computed from its outcomes. Pure: no clock, no I/O.

Latencies are those of requests that began in the window and are complete. Inter-token latencies and
rates are pooled over the window: every gap and every token in it counts once, whichever request it
belongs to, also one that the window's end cut off.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.load.options import Objectives
from scripts.transcript import Kind, Outcome


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is measured, on the outcomes' clock, in seconds."""

    start_s: float  #: what began before is warm-up
    end_s: float  #: what ends after was not seen to end

    @property
    def seconds(self) -> float:
        """How long it is; at least a nanosecond, so that rates can be told."""
        return max(self.end_s - self.start_s, 1e-9)

    def holds(self, at_s: float) -> bool:
        return self.start_s <= at_s <= self.end_s


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some values in milliseconds; NaN where there is none. Percentiles are interpolated."""

    count: int
    mean: float
    median: float
    std: float  #: as of a whole population
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Distribution":
        values = sorted(value * 1e3 for value in seconds)
        if not values:
            return cls(0, *[math.nan] * 7)
        mean = math.fsum(values) / len(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        p50, p90, p95, p99 = (percentile(values, percent) for percent in (50, 90, 95, 99))
        return cls(len(values), mean, p50, std, p50, p90, p95, p99)


@dataclass(frozen=True, slots=True)
class Summary:
    """A load test, or one step of a sweep. Counts are of requests that began in the window."""

    users: int  #: 0 for an open loop
    seconds: float  #: the length of the window
    completed: int
    failed: int
    refused: int
    unavailable: int
    disconnected: int
    incomplete: int
    short: int  #: complete with fewer tokens than were asked for
    refused_without_retry_after: int
    request_throughput: float  #: ends of complete requests in a second
    request_goodput: float  #: the same, of those that keep to the objectives
    output_throughput: float  #: generated tokens in a second
    total_token_throughput: float  #: the same with the tokens of the prompts
    output_throughput_per_user: float  #: tokens in a second that one request sees, once it decodes
    prompt_tokens: int  #: of complete requests, as the next two
    cached_tokens: int
    completion_tokens: int
    tokens_counted_by: str  #: ``usage``, ``chunks`` where no server said it, or both
    peak_concurrency: int  #: the most requests at once
    ttft: Distribution
    tpot: Distribution
    itl: Distribution  #: gaps between chunks with text
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


def _flow(outcomes: Sequence[Outcome], window: Window) -> tuple[float, float, list[float]]:
    """Generated tokens, prompt tokens, and gaps between chunks, of what came in the window."""
    n_output = n_prompt = 0.0
    gaps_s: list[float] = []
    for outcome in outcomes:
        n_output += sum(map(window.holds, outcome.content_s)) * outcome.tokens_per_chunk
        if outcome.content_s and window.holds(outcome.content_s[0]):
            n_prompt += outcome.prompt_tokens
        ends = zip(outcome.gaps_s, outcome.content_s[1:], strict=True)
        gaps_s += [gap for gap, at_s in ends if window.holds(at_s)]
    return n_output, n_prompt, gaps_s


def summarize(
    outcomes: Sequence[Outcome], window: Window, objectives: Objectives, users: int = 0
) -> Summary:
    """Compute the figures of a window from all outcomes of a test, in any order."""
    begun = [outcome for outcome in outcomes if window.holds(outcome.started_s)]
    kinds: Counter[Kind] = Counter(outcome.kind for outcome in begun)
    completed = [outcome for outcome in begun if outcome.kind == "completed"]
    ended = [o for o in outcomes if o.kind == "completed" and window.holds(o.ended_s)]
    n_output, n_prompt, gaps_s = _flow(outcomes, window)
    decoding = [(o.completion_tokens - 1, o.tpot_s) for o in completed if o.tpot_s is not None]
    decode_s = sum(n * tpot_s for n, tpot_s in decoding)
    sources = {"usage" if o.has_usage else "chunks" for o in completed}
    codes = Counter(outcome.code for outcome in begun if outcome.kind == "failed")
    silent = [o for o in begun if o.kind == "refused" and not o.retry_after]
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
        refused_without_retry_after=len(silent),
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
        error_code_frequency=dict(sorted(codes.items())),
    )
