"""The statistics of a load test, against values worked out by hand and by NumPy."""

import math
import random

import numpy as np
import pytest

from scripts.load.metrics import (
    Distribution,
    Window,
    peak_concurrency,
    percentile,
    summarize,
)
from scripts.load.options import Objectives
from scripts.transcript import Kind, Outcome

ALWAYS = Window(0.0, 100.0)


def outcome(
    started: float = 0.0,
    content: tuple[float, ...] = (),
    ended: float = 1.0,
    kind: Kind = "completed",
    n: int | None = None,
    **more: object,
) -> Outcome:
    tokens = len(content) if n is None else n
    return Outcome("x", kind, started, ended, content, completion_tokens=tokens, **more)  # type: ignore[arg-type]


def test_percentiles_are_numpys() -> None:
    source = random.Random(0)
    for size in (1, 2, 3, 10, 101):
        values = sorted(source.expovariate(1) for _ in range(size))
        for percent in (0, 50, 90, 95, 99, 100):
            assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
        found = Distribution.of(values)
        assert found.mean == pytest.approx(np.mean(values) * 1e3)
        assert found.std == pytest.approx(np.std(values) * 1e3)
        assert found.p99 == pytest.approx(np.percentile(values, 99) * 1e3)
        assert (found.count, found.median) == (size, found.p50)


def test_nothing_measured_is_no_zero() -> None:
    empty = Distribution.of([])
    assert empty.count == 0
    assert math.isnan(empty.mean) and math.isnan(empty.p99)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_latencies_are_of_complete_requests_that_began_in_the_window() -> None:
    counted = outcome(1.0, (1.5, 1.6, 1.9), 2.0)
    summary = summarize(
        [
            counted,
            outcome(0.5, (0.6, 1.2), 1.3),  # began in the warm-up
            outcome(1.0, (9.0, 9.5), 9.9, kind="failed", code="timeout"),
        ],
        Window(1.0, 10.0),
        Objectives(),
    )
    assert summary.ttft.count == 1
    assert summary.ttft.mean == pytest.approx(500)
    assert summary.tpot.mean == pytest.approx((2.0 - 1.0 - 0.5) / 2 * 1e3)
    assert summary.e2el.p99 == pytest.approx(1000)
    assert (summary.completed, summary.failed) == (1, 1)
    assert summary.error_code_frequency == {"timeout": 1}


def test_gaps_and_rates_are_pooled_over_the_window() -> None:
    # 4 chunks of 2 tokens each; two chunks lie in the window, and one gap ends in it.
    whole = outcome(0.0, (1.0, 2.0, 3.0, 4.0), 5.0, n=8, prompt_tokens=10)
    cut_off = outcome(2.5, (3.0, 3.5), 3.6, kind="incomplete", prompt_tokens=6)
    summary = summarize([whole, cut_off], Window(2.0, 3.6), Objectives())
    assert summary.itl.count == 3
    assert summary.itl.mean == pytest.approx((1.0 + 1.0 + 0.5) / 3 * 1e3)
    assert summary.output_throughput == pytest.approx((2 * 2 + 2 * 1) / 1.6)
    # A prompt counts when its first token comes.
    assert summary.total_token_throughput == pytest.approx((6 + 6) / 1.6)
    assert summary.request_throughput == 0.0
    assert (summary.completed, summary.incomplete) == (0, 1)


def test_tokens_per_user_weigh_by_length() -> None:
    fast = outcome(0.0, (1.0, 2.0), 2.0, n=11)  # 10 tokens in 1 s
    slow = outcome(0.0, (1.0, 2.0), 5.0, n=3)  # 2 tokens in 4 s
    summary = summarize([fast, slow], ALWAYS, Objectives())
    assert summary.output_throughput_per_user == pytest.approx(12 / 5)


def test_each_end_is_counted_apart() -> None:
    outcomes = [
        outcome(kind="refused", retry_after="1"),
        outcome(kind="refused"),
        outcome(kind="unavailable"),
        outcome(kind="disconnected"),
        outcome(kind="failed", code="b"),
        outcome(kind="failed", code="a"),
        outcome(kind="failed", code="b"),
        outcome(content=(0.5,), max_tokens=2),
    ]
    summary = summarize(outcomes, ALWAYS, Objectives(), users=3)
    counts = (summary.completed, summary.failed, summary.refused, summary.unavailable)
    assert counts == (1, 3, 2, 1)
    assert (summary.disconnected, summary.short, summary.users) == (1, 1, 3)
    assert summary.refused_without_retry_after == 1
    assert summary.error_code_frequency == {"a": 1, "b": 2}


def test_how_tokens_were_counted_is_said() -> None:
    by_usage, by_chunks = outcome(has_usage=True), outcome()
    assert summarize([by_usage], ALWAYS, Objectives()).tokens_counted_by == "usage"
    assert summarize([by_chunks], ALWAYS, Objectives()).tokens_counted_by == "chunks"
    both = summarize([by_usage, by_chunks], ALWAYS, Objectives())
    assert both.tokens_counted_by == "usage and chunks"


def test_peak_concurrency() -> None:
    outcomes = [outcome(0, ended=4), outcome(1, ended=2), outcome(2, ended=3), outcome(6, ended=9)]
    assert peak_concurrency(outcomes, ALWAYS) == 2
    assert peak_concurrency(outcomes, Window(5, 7)) == 1
    assert peak_concurrency([], ALWAYS) == 0


def test_goodput_wants_every_limit_kept() -> None:
    objectives = Objectives.parse("ttft:500,tpot:100,e2el:2000")
    good = outcome(0.0, (0.5, 0.55), 0.6)
    assert objectives.are_met(good)
    assert not objectives.are_met(outcome(0.0, (0.6, 0.65), 0.7))
    assert not objectives.are_met(outcome(0.0, (0.4, 0.5), 0.9))
    assert not objectives.are_met(outcome(0.0, (0.4,), 2.5))
    assert objectives.are_met(outcome(0.0, (0.4,), 1.5))  # one token: no time per further one
    assert not objectives.are_met(outcome(0.0, (), 0.1))
    assert not objectives.are_met(outcome(0.0, (0.1,), 0.2, kind="failed"))
    summary = summarize([good, outcome(0.0, (0.6,), 0.7)], Window(0.0, 2.0), objectives)
    assert (summary.request_throughput, summary.request_goodput) == (1.0, 0.5)


@pytest.mark.parametrize(
    "text", ["ttft", "ttft:", "ttft:x", "ttft:0", "ttft:-1", "ttft:nan", "itl:5", "ttft:1,ttft:2"]
)
def test_objectives_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"ttft|itl"):
        Objectives.parse(text)
