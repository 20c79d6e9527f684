"""A campaign's report: a table for people, JSON for machines."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from scripts.campaign.clients import LEAST_SHARE, SLOW_S, Report
from scripts.campaign.oracle import GRACE_S, Kind
from scripts.campaign.soak import GROWING, GROWTH_GOAL_PERCENT, Sample, growth_percent
from scripts.figures import Figure, percentile, table

_SHOWN = 20
_KINDS: dict[Kind, str] = {
    "outcome": "with no outcome, wrong text, or past their deadline",
    "killed": "failed by kills that had emitted nothing",
    "other": "other violations",
}


def as_json(report: Report, samples: Sequence[Sample] = ()) -> dict[str, Any]:
    return {
        "plan": asdict(report.plan),
        "figures": [figure.as_json() for figure in figures(report, samples)],
        "outcomes": dict(sorted(report.outcomes.items())),
        "faults": dict(report.faults.counts) if report.faults else {},
        "shares": report.shares,
        "violations": report.violations,
        "before": asdict(report.before) if report.before else None,
        "after": asdict(report.after) if report.after else None,
        "exit_s": report.exit_s,
        "samples": [asdict(each) for each in samples],
    }


def figures(report: Report, samples: Sequence[Sample] = ()) -> list[Figure]:
    found: list[Figure] = []

    def add(name: str, value: float, unit: str = "", digits: int = 0, goal: str = "") -> None:
        found.append(Figure("campaign", name, (value,), unit, digits, goal))

    add("requests", sum(report.outcomes.values()))
    faults = report.faults
    add("faults", sum(faults.counts.values()) if faults else 0)
    for kind, name in _KINDS.items():
        add(name, sum(kind in each["kinds"] for each in report.violations), goal="≤ 0")
    if math.isfinite(report.latest_s):
        goal = f"≤ {GRACE_S:g}"
        add("the latest answer, after its deadline", report.latest_s, "s", 2, goal)
    if report.asked:
        name = "answered of those that stay, in the worst quarter of a minute"
        add(name, 100 * min(report.shares), "%", 0, f"≥ {100 * LEAST_SHARE:g}")
    if report.ready_s:
        slow = sum(took_s > SLOW_S for took_s in report.ready_s)
        add(f"`/ready` slower than {SLOW_S:g} s", slow, goal="≤ 0")
        add("`/ready`, the slowest", max(report.ready_s) * 1e3, "ms", 1)
    if faults and faults.successor_ms:
        name, times = "worker dead → successor ready, p", sorted(faults.successor_ms)
        add(f"{name}50", percentile(times, 50), "ms", 1, "≤ 50")
        add(f"{name}99", percentile(times, 99), "ms", 1, "≤ 200")
    if faults and faults.after_zygote_ms:
        name = "worker dead → successor ready, no zygote meanwhile, p99"
        add(name, percentile(sorted(faults.after_zygote_ms), 99), "ms", 1)
    for what, unit in (("decode", "token"), ("prefill", "chunk")):
        if times := report.release.get(what, []):
            name = f"client gone in {what} → worker free, p99"
            goal = f"≤ {median(report.release[unit]) + 5:.1f}"
            add(name, percentile(sorted(times), 99), "ms", 1, goal)
    if report.before and report.after:
        growth = 100 * (report.after.rss_mib / report.before.rss_mib - 1)
        add("gateway memory, after against before", growth, "%", 1)
    for name, label in GROWING.items() if samples else ():
        mib = getattr(samples[-1], name)
        growth, goal = growth_percent(samples, name), f"≤ {GROWTH_GOAL_PERCENT:g}"
        add(f"{label}, {mib:.1f} MiB at the end: growth", growth, "%", 2, goal)
    return found


def text(report: Report, samples: Sequence[Sample] = ()) -> str:
    lines = [table(figures(report, samples)), "", "| outcome | requests |", "|---|---|"]
    lines += [f"| {outcome} | {n} |" for outcome, n in sorted(report.outcomes.items())]
    lines += ["", "| done to the server | times |", "|---|---|"]
    counts = report.faults.counts if report.faults else {}
    lines += [f"| {fault} | {n} |" for fault, n in sorted(counts.items())]
    lines += ["", f"seed {report.plan.seed}"]
    for violation in report.violations[:_SHOWN]:
        lines += ["", f"VIOLATION: {violation['what']}", *map(str, violation["evidence"])]
    if len(report.violations) > _SHOWN:
        lines.append(f"... and {len(report.violations) - _SHOWN} more")
    return "\n".join(lines)
