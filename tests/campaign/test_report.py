"""What a report, the parts of a campaign and the curves of a soak say of success and failure."""

import json
import math
from dataclasses import replace

import pytest

from scripts.campaign import report as reports
from scripts.campaign.asks import Limits
from scripts.campaign.clients import Plan, Report
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.oracle import Verdict, Violation
from scripts.campaign.run import grown_by
from scripts.campaign.soak import Sample, grown, growth_percent
from scripts.client import Answer
from scripts.processes import Footprint

SAMPLE = Sample(0.0, 100.0, 50.0, 20.0, 40, 5)


def soaked(**late: float) -> list[Sample]:
    """Samples of an hour that has these values in its last sixth."""
    samples = [replace(SAMPLE, at_s=60.0 * minute) for minute in range(61)]
    return [
        replace(sample, **late) if sample.at_s >= 3000 else sample  # type: ignore[arg-type]
        for sample in samples
    ]


def a_report() -> Report:
    limits = Limits(short=1, long=2, words=3, request_timeout_s=60.0, queue_timeout_s=20.0)
    return Report(Plan(60.0, 1, {}, limits, Schedule()))


def goals(report: Report) -> dict[str, bool | None]:
    return {figure.name: figure.is_met for figure in reports.figures(report)}


def test_growth_is_that_of_the_last_sixth_against_the_second() -> None:
    assert growth_percent(soaked(gateway_mib=103.0), "gateway_mib") == pytest.approx(3.0)
    warm_up = [replace(s, gateway_mib=1.0) if s.at_s < 600 else s for s in soaked()]
    assert growth_percent(warm_up, "gateway_mib") == 0.0
    assert math.isnan(growth_percent([SAMPLE], "gateway_mib"))


def test_a_soak_sees_what_grows() -> None:
    assert grown(soaked(descriptors=42, threads=7, gateway_mib=101.9, workers_mib=40.0)) == []
    assert grown(soaked(descriptors=43)) == ["descriptors: 40, and 43 at the end"]
    assert grown(soaked(threads=8)) == ["threads: 5, and 8 at the end"]
    assert grown(soaked(workers_mib=51.1)) == ["workers_mib: +2.20 %"]
    assert grown([]) == ["there are too few samples to compare"]


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (Footprint(110.0, 42, 13), []),
        (Footprint(112.0, 40, 5), ["rss_mib"]),
        (Footprint(100.0, 43, 5), ["descriptors"]),
        (Footprint(100.0, 40, 14), ["threads"]),
    ],
)
def test_a_gateway_may_not_grow(after: Footprint, names: list[str]) -> None:
    assert grown_by(Footprint(100.0, 40, 5), after) == names


def test_every_part_of_a_campaign_has_answers() -> None:
    report = a_report()
    for at_s in (1.0, 16.0, 31.0, 59.0):
        report.note(at_s, is_answered=True)
    report.check_shares()
    assert report.violations == []
    for _ in range(19):
        report.note(64.0, is_answered=False)
    report.check_shares()
    ((text,),) = (violation["evidence"] for violation in report.violations)
    assert text.startswith("from 45 s on only 1 of 20")
    silent = a_report()
    silent.check_shares()
    assert len(silent.violations) == 4, "where nothing ends, nothing is answered"


def test_violations_are_counted_by_kind() -> None:
    report = a_report()
    late = (Violation("outcome", "late"), Violation("outcome", "hangs"))
    report.take("chat", Verdict("answered", late), Answer(100.0), "a note")
    report.take("chat", Verdict("503", (Violation("killed", "failed"),)), Answer(100.0), "a note")
    report.violate("SIGTERM", "exit status 1")
    measured = {figure.name: figure.values for figure in reports.figures(report)}
    assert measured["with no outcome, wrong text, or past their deadline"] == (1,)
    assert measured["failed by kills that had emitted nothing"] == (1,)
    assert measured["other violations"] == (1,)
    assert goals(report)["other violations"] is False
    assert "VIOLATION: SIGTERM" in reports.text(report)
    json.dumps(reports.as_json(report))


@pytest.mark.parametrize("is_good", [True, False])
def test_goals_are_met_or_missed(is_good: bool) -> None:
    report, faults = a_report(), Faults(None, Schedule(), 1)  # type: ignore[arg-type]
    report.faults = faults
    report.latest_s = 0.4 if is_good else 1.1
    report.ready_s = [0.1, 0.9 if is_good else 1.2]
    faults.successor_ms = [40.0] * 98 + [150.0, 150.0] if is_good else [60.0, 250.0]
    report.release = {"decode": [8.0, 14.0 if is_good else 16.0], "token": [10.0]}
    found = goals(report)
    for name in (
        "the latest answer, after its deadline",
        "`/ready` slower than 1 s",
        "worker dead → successor ready, p50",
        "worker dead → successor ready, p99",
        "client gone in decode → worker free, p99",
    ):
        assert found[name] is is_good, name
    # Without chunks there is nothing to say about them.
    assert not any("prefill" in name for name in found)
