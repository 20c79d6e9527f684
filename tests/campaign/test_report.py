"""What a report, the parts of a campaign and the curves of memory say of success and failure."""

import json
import math
from dataclasses import replace

import pytest

from scripts.campaign.asks import Limits
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.memory import Sample, grown, growth
from scripts.campaign.oracle import Verdict
from scripts.campaign.report import Plan, Report
from scripts.client import Answer

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


def test_growth_is_that_of_the_last_sixth_against_the_second() -> None:
    warm_up = [replace(s, gateway_mib=1.0) if s.at_s < 600 else s for s in soaked(gateway_mib=103)]
    assert growth(warm_up, "gateway_mib") == (100.0, 103.0)
    assert all(map(math.isnan, growth([], "gateway_mib")))


@pytest.mark.parametrize(
    ("samples", "is_steady", "names"),
    [
        (soaked(descriptors=42, threads=13, gateway_mib=101.9, workers_mib=40.0), True, []),
        (soaked(descriptors=43), True, ["descriptors"]),
        (soaked(threads=14), False, ["threads"]),
        (soaked(workers_mib=51.1), True, ["workers_mib"]),
        (soaked(workers_mib=90.0, gateway_mib=109.0), False, []),
        (soaked(gateway_mib=111.0), False, ["gateway_mib"]),
        ([], False, ["descriptors", "threads", "gateway_mib"]),
    ],
)
def test_a_run_sees_what_grows(samples: list[Sample], is_steady: bool, names: list[str]) -> None:
    assert [text.partition(":")[0] for text in grown(samples, is_steady)] == names


def test_every_part_of_a_campaign_has_answers() -> None:
    report = a_report()
    for at_s in (1.0, 16.0, 31.0, 59.0):
        report.note(at_s, is_answered=True)
    report.check_shares()
    assert report.violations == []
    for _ in range(19):
        report.note(64.0, is_answered=False)
    report.check_shares()
    ((_, text),) = report.violations
    assert text.startswith("from 45 s on only 1 of 20")
    silent = a_report()
    silent.check_shares()
    assert len(silent.violations) == 4, "where nothing ends, nothing is answered"


def test_violations_are_counted_and_shown() -> None:
    report = a_report()
    report.take("chat", Verdict("answered", ("late", "hangs")), Answer(100.0), "a note")
    report.violate("SIGTERM", "exit status 1")
    measured = {figure.name: figure for figure in report.figures()}
    assert (measured["violations"].values, measured["violations"].is_met) == ((2,), False)
    assert "VIOLATION: chat\nlate\nhangs\na note" in report.text()
    json.dumps(report.as_json())


@pytest.mark.parametrize("is_good", [True, False])
def test_goals_are_met_or_missed(is_good: bool) -> None:
    report, faults = a_report(), Faults(None, Schedule(), 1)  # type: ignore[arg-type]
    report.faults = faults
    report.latest_s = 0.4 if is_good else 1.1
    report.ready_s = [0.1, 0.9 if is_good else 1.2]
    faults.successor_ms = [40.0] * 98 + [150.0, 150.0] if is_good else [60.0, 250.0]
    found = {figure.name: figure.is_met for figure in report.figures()}
    for name in (
        "the latest answer, after its deadline",
        "`/ready` slower than 1 s",
        "worker dead → successor ready, p50",
        "worker dead → successor ready, p99",
    ):
        assert found[name] is is_good, name
