"""Shows the figures of a load test: a table to read, JSON and CSV to go on with."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from scripts.load.metrics import Summary

LATENCIES = ("ttft", "tpot", "itl", "e2el")
_COLUMNS = ("mean", "median", "std", "p50", "p90", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so after a scenario."""

    name: str
    passed: bool
    detail: str  #: what was seen


def table(summaries: Sequence[Summary], checks: Sequence[Check] = ()) -> str:
    blocks = [_block(summary) for summary in summaries]
    if len(summaries) > 1:
        blocks.append(_steps(summaries))
    lines = [f"{'passed' if c.passed else 'FAILED'}: {c.name}: {c.detail}" for c in checks]
    return "\n\n".join([*blocks, *(["\n".join(lines)] if lines else [])])


def as_json(
    settings: dict[str, Any], summaries: Sequence[Summary], checks: Sequence[Check]
) -> dict[str, Any]:
    """The report as JSON; what could not be measured is null."""
    report = {
        "settings": settings,
        "steps": [asdict(summary) for summary in summaries],
        "checks": [asdict(check) for check in checks],
    }
    cleaned: dict[str, Any] = _without_nan(report)
    return cleaned


def as_csv(summaries: Sequence[Summary]) -> str:
    """A line for each step, a column for each figure, e.g. ``ttft_p99_ms``."""
    rows = [_flat(summary) for summary in summaries]
    output = StringIO()
    writer = csv.DictWriter(output, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return output.getvalue()


def write(
    prefix: Path, settings: dict[str, Any], summaries: Sequence[Summary], checks: Sequence[Check]
) -> list[Path]:
    """Write ``PREFIX.json`` and ``PREFIX.csv``; their folder is made if need be.

    Raises:
        OSError: they cannot be written.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    paths = [prefix.with_name(f"{prefix.name}.{suffix}") for suffix in ("json", "csv")]
    text = json.dumps(as_json(settings, summaries, checks), indent=2, allow_nan=False)
    paths[0].write_text(text + "\n", "utf-8")
    paths[1].write_text(as_csv(summaries), "utf-8")
    return paths


def _block(summary: Summary) -> str:
    who = f"{summary.users} users" if summary.users else "open loop"
    lines = [
        f"{who}, {summary.seconds:.1f} s, at most {summary.peak_concurrency} requests at once",
        f"  completed {summary.completed}, failed {summary.failed}, 429 {summary.refused},"
        f" 503 {summary.unavailable}, disconnected {summary.disconnected},"
        f" incomplete at the end {summary.incomplete}, shorter than asked for {summary.short}",
        f"  requests/s {summary.request_throughput:,.2f},"
        f" good requests/s {summary.request_goodput:,.2f},"
        f" output tokens/s {summary.output_throughput:,.2f},"
        f" total tokens/s {summary.total_token_throughput:,.2f},"
        f" tokens/s per user {summary.output_throughput_per_user:,.2f}",
        f"  tokens: prompt {summary.prompt_tokens} (cached {summary.cached_tokens}), completion"
        f" {summary.completion_tokens}; counted by {summary.tokens_counted_by}",
        f"  {'ms':<6}" + "".join(f"{name:>10}" for name in _COLUMNS),
    ]
    for name in LATENCIES:
        values = asdict(getattr(summary, name))
        row = "".join(f"{_number(values[column], 1):>10}" for column in _COLUMNS)
        lines.append(f"  {name.upper():<6}{row}")
    if summary.error_code_frequency:
        errors = (f"{code} {count}" for code, count in summary.error_code_frequency.items())
        lines.append("  errors: " + ", ".join(errors))
    if summary.refused_without_retry_after:
        lines.append(f"  429 without Retry-After: {summary.refused_without_retry_after}")
    return "\n".join(lines)


def _steps(summaries: Sequence[Summary]) -> str:
    lines = [
        "| users | requests/s | output tokens/s | TTFT p50 ms | TPOT p50 ms | failed | 429 |",
        "|" + "---|" * 7,
    ]
    lines += [
        f"| {s.users} | {s.request_throughput:,.2f} | {s.output_throughput:,.1f}"
        f" | {_number(s.ttft.p50, 0)} | {_number(s.tpot.p50, 1)} | {s.failed} | {s.refused} |"
        for s in summaries
    ]
    return "\n".join(lines)


def _flat(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(summary).items():
        if name in LATENCIES:
            for key, number in value.items():
                row[f"{name}_{key}" if key == "count" else f"{name}_{key}_ms"] = number
        elif name == "error_code_frequency":
            row[name] = " ".join(f"{code}:{count}" for code, count in value.items())
        else:
            row[name] = value
    return {name: "" if _is_nan(value) else value for name, value in row.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if _is_nan(value) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"
