"""What a report, the parts of a campaign and the curves of a soak say of success and failure."""

import json
import math
from dataclasses import replace

import pytest

from scripts.campaign import report as reports
from scripts.campaign.ask import Answer
from scripts.campaign.clients import Plan, Report
from scripts.campaign.faults import Schedule
from scripts.campaign.oracle import Verdict, Violation
from scripts.campaign.parts import Parts
from scripts.campaign.processes import Footprint
from scripts.campaign.release import ReleaseTimes
from scripts.campaign.rest import grown_by
from scripts.campaign.soak import Sample, growth_percent, has_grown, held_more
from scripts.campaign.traffic import Limits

SAMPLE = Sample(0.0, 100.0, 50.0, 20.0, 1, 40, 5)


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


def is_met(report: Report, name: str) -> bool | None:
    (met,) = (figure.is_met for figure in reports.figures(report) if name in figure.name)
    return met


def test_growth_is_that_of_the_last_sixth_against_the_second() -> None:
    assert growth_percent(soaked(gateway_mib=103.0), "gateway_mib") == pytest.approx(3.0)
    warm_up = [replace(s, gateway_mib=1.0) if s.at_s < 600 else s for s in soaked()]
    assert growth_percent(warm_up, "gateway_mib") == 0.0
    assert math.isnan(growth_percent([], "gateway_mib"))
    assert math.isnan(growth_percent([SAMPLE], "gateway_mib"))


@pytest.mark.parametrize(
    ("percent", "is_failure"), [(1.9, False), (-5.0, False), (2.1, True), (math.nan, True)]
)
def test_growth_that_is_too_much_or_not_known_is_a_failure(
    percent: float, is_failure: bool
) -> None:
    assert has_grown({"gateway_mib": 0.0, "workers_mib": percent}) is is_failure


def test_a_soak_sees_descriptors_and_threads_that_stay() -> None:
    assert held_more(soaked(descriptors=42, threads=7)) == []
    assert held_more(soaked(descriptors=45, zygotes=2)) == []
    assert held_more(soaked(descriptors=43)) == ["descriptors: 40, and 43 at the end"]
    assert held_more(soaked(threads=8)) == ["threads: 5, and 8 at the end"]
    assert held_more([]) == ["there are too few samples to compare"]


@pytest.mark.parametrize(
    ("after", "grown"),
    [
        (Footprint(110.0, 42, 13), []),
        (Footprint(112.0, 40, 5), ["rss_mib"]),
        (Footprint(100.0, 43, 5), ["descriptors"]),
        (Footprint(100.0, 40, 14), ["threads"]),
    ],
)
def test_a_gateway_may_not_grow(after: Footprint, grown: list[str]) -> None:
    assert grown_by(Footprint(100.0, 40, 5), after, 2) == grown


def test_every_part_of_a_campaign_has_answers() -> None:
    parts = Parts(40.0)
    for at_s in (1.0, 16.0, 39.0):
        parts.note(at_s, is_answered=True)
    assert parts.violations() == []
    for _ in range(19):
        parts.note(44.0, is_answered=False)
    assert [text.split(" of ")[0] for text in parts.violations()] == ["from 15 s on only 2"]
    assert len(Parts(40.0).violations()) == 2  # where nothing ends, nothing is answered


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
    assert is_met(report, "other violations") is False
    assert "VIOLATION: SIGTERM" in reports.text(report)
    json.dumps(reports.as_json(report))


def test_goals_are_met_or_missed() -> None:
    report = a_report()
    report.latest_s, report.successor_ms = 0.4, [40.0] * 98 + [150.0, 150.0]
    report.release = ReleaseTimes((8.0, 14.0), 10.0, (), math.nan)
    report.readiness.asked = 10
    report.parts.note(1.0, is_answered=True)
    for name in ("latest", "ready, p50", "ready, p99", "decoding", "slower than 1 s"):
        assert is_met(report, name) is True, name
    assert is_met(report, "worst quarter") is False  # in the other parts nothing has ended
    # Without chunks there is nothing to say about them.
    assert not any("prefilling" in figure.name for figure in reports.figures(report))
    report.latest_s, report.successor_ms, report.readiness.slow = 1.1, [60.0, 250.0], 1
    report.release = ReleaseTimes((8.0, 16.0), 10.0, (50.0,), 40.0)
    missed = ("latest", "ready, p50", "ready, p99", "decoding", "prefilling", "slower than 1 s")
    for name in missed:
        assert is_met(report, name) is False, name
