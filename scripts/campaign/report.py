"""A campaign's report: a table for people, JSON for machines."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scripts.benchmarks.results import Figure, table
from scripts.campaign.clients import Report
from scripts.load.metrics import percentile

_PART = "campaign"
_SHOWN = 20


def as_json(report: Report) -> dict[str, Any]:
    """All of a report."""
    plan = asdict(report.plan)
    return {
        "plan": plan,
        "figures": [
            {**asdict(f), "measured": f.measured, "met": f.is_met} for f in figures(report)
        ],
        "outcomes": dict(sorted(report.outcomes.items())),
        "faults": dict(report.faults),
        "violations": report.violations,
        "gateway": {
            "before": asdict(report.before) if report.before else None,
            "after": asdict(report.after) if report.after else None,
            "exit_status": report.exit_status,
            "exit_s": report.exit_s,
        },
    }


def figures(report: Report) -> list[Figure]:
    """What a campaign has measured."""
    found = [
        Figure(_PART, "requests", (sum(report.outcomes.values()),), digits=0),
        Figure(_PART, "violations", (len(report.violations),), digits=0, goal="≤ 0"),
        Figure(_PART, "faults", (sum(report.faults.values()),), digits=0),
    ]
    if report.successor_ms:
        found += [
            _percentile("worker dead → successor ready, p50", report.successor_ms, 50, "≤ 50"),
            _percentile("worker dead → successor ready, p99", report.successor_ms, 99, "≤ 200"),
        ]
    if report.after_template_ms:
        name = "worker dead → successor ready, template dead too, p99"
        found.append(_percentile(name, report.after_template_ms, 99))
    if report.release:
        release = report.release
        found += [
            _percentile("client gone while decoding → worker free, p50", release.decode_ms, 50),
            _percentile(
                "client gone while decoding → worker free, p99",
                release.decode_ms,
                99,
                f"≤ {release.token_ms + 5:.1f}",
            ),
            _percentile(
                "client gone while prefilling → worker free, p99",
                release.prefill_ms,
                99,
                f"≤ {release.chunk_ms + 5:.1f}",
            ),
        ]
    if report.before and report.after:
        growth = 100 * (report.after.rss_mib / report.before.rss_mib - 1)
        found.append(Figure(_PART, "gateway memory, after against before", (growth,), "%", 1))
    return found


def text(report: Report) -> str:
    """The report for people."""
    lines = [table(figures(report)), "", "| outcome | requests |", "|---|---|"]
    lines += [f"| {outcome} | {n} |" for outcome, n in sorted(report.outcomes.items())]
    lines += ["", "| done to the server | times |", "|---|---|"]
    lines += [f"| {fault} | {n} |" for fault, n in sorted(report.faults.items())]
    lines += ["", f"seed {report.plan.seed}"]
    for violation in report.violations[:_SHOWN]:
        lines += ["", f"VIOLATION: {violation['what']}", *map(str, violation["evidence"])]
    if len(report.violations) > _SHOWN:
        lines.append(f"... and {len(report.violations) - _SHOWN} more")
    return "\n".join(lines)


def _percentile(name: str, values: Sequence[float], percent: float, goal: str = "") -> Figure:
    value = percentile(sorted(values), percent) if values else float("nan")
    return Figure(_PART, name, (value,), "ms", 1, goal)
