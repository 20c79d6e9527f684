"""A campaign's report: a table for people, JSON for machines."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scripts.benchmarks.results import Figure, table
from scripts.campaign.clients import Report
from scripts.campaign.oracle import GRACE_S, Kind
from scripts.campaign.parts import LEAST_SHARE
from scripts.campaign.readiness import SLOW_S
from scripts.load.metrics import percentile

_PART = "campaign"
_SHOWN = 20
_KINDS: dict[Kind, str] = {
    "outcome": "with no outcome, wrong text, or past their deadline",
    "killed": "failed by kills that had emitted nothing",
    "other": "other violations",
}


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
        "parts": asdict(report.parts),
        "readiness": asdict(report.readiness),
        "violations": report.violations,
        "gateway": {
            "before": asdict(report.before) if report.before else None,
            "after": asdict(report.after) if report.after else None,
            "zygotes_before": [asdict(held) for held in report.zygotes_before],
            "zygotes_after": [asdict(held) for held in report.zygotes_after],
            "exit_status": report.exit_status,
            "exit_s": report.exit_s,
        },
    }


def figures(report: Report) -> list[Figure]:
    """What a campaign has measured."""
    found = [
        Figure(_PART, "requests", (sum(report.outcomes.values()),), digits=0),
        Figure(_PART, "faults", (sum(report.faults.values()),), digits=0),
        *(
            Figure(_PART, name, (_n_of_kind(report, kind),), digits=0, goal="≤ 0")
            for kind, name in _KINDS.items()
        ),
    ]
    if math.isfinite(report.latest_s):
        name = "the latest answer, after its deadline"
        found.append(Figure(_PART, name, (report.latest_s,), "s", 2, f"≤ {GRACE_S:g}"))
    if any(report.parts.asked):
        share = 100 * min(report.parts.shares)
        name = "answered of those that stay, in the worst quarter of a minute"
        found.append(Figure(_PART, name, (share,), "%", 0, f"≥ {100 * LEAST_SHARE:g}"))
    if report.readiness.asked:
        name = f"`/ready` slower than {SLOW_S:g} s"
        found.append(Figure(_PART, name, (report.readiness.slow,), digits=0, goal="≤ 0"))
        name = "`/ready`, the slowest"
        found.append(Figure(_PART, name, (report.readiness.slowest_s * 1e3,), "ms", 1))
    if report.successor_ms:
        found += [
            _percentile("worker dead → successor ready, p50", report.successor_ms, 50, "≤ 50"),
            _percentile("worker dead → successor ready, p99", report.successor_ms, 99, "≤ 200"),
        ]
    if report.after_zygote_ms:
        name = "worker dead → successor ready, no zygote meanwhile, p99"
        found.append(_percentile(name, report.after_zygote_ms, 99))
    if report.release:
        release = report.release
        found.append(
            _percentile(
                "client gone while decoding → worker free, p99",
                release.decode_ms,
                99,
                f"≤ {release.token_ms + 5:.1f}",
            )
        )
        if release.prefill_ms:
            found.append(
                _percentile(
                    "client gone while prefilling → worker free, p99",
                    release.prefill_ms,
                    99,
                    f"≤ {release.chunk_ms + 5:.1f}",
                )
            )
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


def _n_of_kind(report: Report, kind: Kind) -> int:
    return sum(kind in violation["kinds"] for violation in report.violations)


def _percentile(name: str, values: Sequence[float], percent: float, goal: str = "") -> Figure:
    value = percentile(sorted(values), percent) if values else float("nan")
    return Figure(_PART, name, (value,), "ms", 1, goal)
