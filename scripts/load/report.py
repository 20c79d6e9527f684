"""The figures of a load test, from its outcomes. Pure but for `write`.

Latencies are those of requests that began in the window and are complete. Inter-token latencies and
rates are pooled over the window: every gap and every token in it counts once, whichever request it
belongs to, also one that the window's end cut off.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scripts.figures import percentile
from scripts.load.options import LATENCIES
from scripts.transcript import Kind, Outcome

_PERCENTS = (50, 90, 95, 99)


class Window(NamedTuple):
    """The time that is measured, in seconds on the outcomes' clock; before it is the warm-up."""

    start_s: float
    end_s: float

    def holds(self, at_s: float) -> bool:
        return self.start_s <= at_s <= self.end_s


@dataclass(frozen=True, slots=True)
class Summary:
    """A load test, or one step of a sweep. Counts are of requests that began in the window."""

    users: int  #: 0 for an open loop
    seconds: float  #: the length of the window
    counts: dict[Kind, int]
    short: int  #: complete with fewer tokens than were asked for
    requests_per_s: float  #: ends of complete requests
    good_requests_per_s: float  #: the same, of those that keep to the objectives
    output_tokens_per_s: float
    prompt_tokens: int  #: of complete requests, as the next two
    cached_tokens: int
    completion_tokens: int
    latencies_ms: dict[str, dict[str, float]]  #: of each kind the mean and percentiles; NaN of none
    errors: dict[str, int]  #: by code


def summarize(
    outcomes: Sequence[Outcome], window: Window, limits: Mapping[str, float], users: int = 0
) -> Summary:
    """Compute the figures of a window from all outcomes of a test, in any order."""
    seconds = max(window.end_s - window.start_s, 1e-9)
    begun = [outcome for outcome in outcomes if window.holds(outcome.started_s)]
    completed = [outcome for outcome in begun if outcome.kind == "completed"]
    ended = [o for o in outcomes if o.kind == "completed" and window.holds(o.ended_s)]
    n_output, gaps_s = _flow(outcomes, window)
    latencies_s = {
        "ttft": (o.ttft_s for o in completed if o.ttft_s is not None),
        "tpot": (o.tpot_s for o in completed if o.tpot_s is not None),
        "itl": gaps_s,
        "e2el": (o.e2el_s for o in completed),
    }
    return Summary(
        users=users,
        seconds=seconds,
        counts=dict(Counter(outcome.kind for outcome in begun)),
        short=sum(outcome.is_short for outcome in completed),
        requests_per_s=len(ended) / seconds,
        good_requests_per_s=sum(is_good(outcome, limits) for outcome in ended) / seconds,
        output_tokens_per_s=n_output / seconds,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in completed),
        cached_tokens=sum(outcome.cached_tokens for outcome in completed),
        completion_tokens=sum(outcome.completion_tokens for outcome in completed),
        latencies_ms={name: _spread(values) for name, values in latencies_s.items()},
        errors=dict(sorted(Counter(o.code for o in begun if o.kind == "failed").items())),
    )


def is_good(outcome: Outcome, limits: Mapping[str, float]) -> bool:
    """Whether a complete request keeps to every limit.

    One without text has no first token to wait for, and so fails a limit on that; one of a single
    token has no time per further token, and so keeps to any.
    """
    tpot_s = outcome.tpot_s or 0.0
    ttft_s = math.inf if outcome.ttft_s is None else outcome.ttft_s
    found_s = {"ttft": ttft_s, "tpot": tpot_s, "e2el": outcome.e2el_s}
    return all(found_s[name] * 1e3 <= limit_ms for name, limit_ms in limits.items())


def _flow(outcomes: Sequence[Outcome], window: Window) -> tuple[float, list[float]]:
    """Generated tokens, and gaps between chunks, of what came in the window."""
    n_output, gaps_s = 0.0, list[float]()
    for outcome in outcomes:
        n_output += sum(map(window.holds, outcome.content_s)) * outcome.tokens_per_chunk
        ends = zip(outcome.gaps_s, outcome.content_s[1:], strict=True)
        gaps_s += [gap for gap, at_s in ends if window.holds(at_s)]
    return n_output, gaps_s


def _spread(seconds: Iterable[float]) -> dict[str, float]:
    values = [value * 1e3 for value in seconds]
    mean = fmean(values) if values else math.nan
    return {"mean": mean, **{f"p{percent}": percentile(values, percent) for percent in _PERCENTS}}


def table(summaries: Sequence[Summary]) -> str:
    blocks = [_block(summary) for summary in summaries]
    if len(summaries) > 1:
        blocks.append(_steps(summaries))
    return "\n\n".join(blocks)


def write(path: Path, settings: dict[str, Any], summaries: Sequence[Summary]) -> None:
    """Write JSON, in which what could not be measured is null; an `OSError` if that fails."""
    report = _without_nan({"settings": settings, "steps": [asdict(each) for each in summaries]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")


def _block(summary: Summary) -> str:
    who = f"{summary.users} users" if summary.users else "open loop"
    counts = ", ".join(f"{kind} {n}" for kind, n in summary.counts.items()) or "no requests"
    lines = [
        f"{who}, {summary.seconds:.1f} s: {counts}, shorter than asked for {summary.short}",
        f"  requests/s {summary.requests_per_s:,.2f},"
        f" good requests/s {summary.good_requests_per_s:,.2f},"
        f" output tokens/s {summary.output_tokens_per_s:,.2f}",
        f"  tokens: prompt {summary.prompt_tokens} (cached {summary.cached_tokens}),"
        f" completion {summary.completion_tokens}",
        f"  {'ms':<6}" + "".join(f"{name:>10}" for name in summary.latencies_ms["ttft"]),
    ]
    for name in LATENCIES:
        values = summary.latencies_ms[name].values()
        lines.append(f"  {name.upper():<6}" + "".join(f"{_number(v):>10}" for v in values))
    if summary.errors:
        lines.append("  errors: " + ", ".join(f"{c} {n}" for c, n in summary.errors.items()))
    return "\n".join(lines)


def _steps(summaries: Sequence[Summary]) -> str:
    head = "| users | requests/s | output tokens/s | TTFT p50 ms | TPOT p50 ms | failed | 429 |"
    lines = [head, "|" + "---|" * 7]
    lines += [
        f"| {s.users} | {s.requests_per_s:,.2f} | {s.output_tokens_per_s:,.1f}"
        f" | {_number(s.latencies_ms['ttft']['p50'])} | {_number(s.latencies_ms['tpot']['p50'])}"
        f" | {s.counts.get('failed', 0)} | {s.counts.get('refused', 0)} |"
        for s in summaries
    ]
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"
