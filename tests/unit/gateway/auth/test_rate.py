"""Buckets and what one key uses, with a clock of our own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.rate import Bucket, OverLimit, Rates, Usage, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (-1, "0s"), (0.0004, "1ms"), (0.12, "120ms"), (0.9995, "1s"), (1, "1s"),
        (1.2, "2s"), (59.5, "1m0s"), (60, "1m0s"), (360, "6m0s"), (3599.9, "1h0m0s"),
        (3725, "1h2m5s"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_bucket_empties_and_fills_evenly() -> None:
    bucket = Bucket(60, 100)
    assert (bucket.remaining(100), bucket.reset_s(100), bucket.wait_s(100)) == (60, 0, 0)
    bucket.take(60, 100)
    assert (bucket.remaining(100), bucket.reset_s(100), bucket.wait_s(100)) == (0, 60, 1)
    assert (bucket.remaining(101), bucket.reset_s(101), bucket.wait_s(101)) == (1, 59, 0)
    assert (bucket.remaining(1000), bucket.reset_s(1000)) == (60, 0)
    bucket.take(180, 1000)
    assert (bucket.remaining(1000), bucket.wait_s(1000), bucket.reset_s(1000)) == (0, 121, 180)


@given(
    st.integers(1, 100_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1_000_000)), max_size=20),
)
def test_a_bucket_keeps_what_it_says(limit: int, steps: list[tuple[float, int]]) -> None:
    bucket, now_s = Bucket(limit, 0), 0.0
    for passed_s, units in steps:
        now_s += passed_s
        bucket.take(units, now_s)
        assert 0 <= bucket.remaining(now_s) <= limit
        assert (bucket.wait_s(now_s) == 0) == (bucket.remaining(now_s) > 0)
        assert bucket.remaining(now_s + bucket.wait_s(now_s)) > 0
        assert bucket.remaining(now_s + bucket.reset_s(now_s) + 1e-3) == limit


@given(st.integers(1, 100), st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_no_more_requests_than_allowed_in_any_time(limit: int, pauses: list[float]) -> None:
    usage, now_s, taken = Usage(Rates(requests=limit), 0), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        taken += usage.begin(now_s) is None
        assert taken <= limit + limit * now_s / 60 + 1e-3


def begun(usage: Usage, now_s: float) -> OverLimit:
    over = usage.begin(now_s)
    assert over is not None
    return over


def test_requests_per_minute() -> None:
    usage = Usage(Rates(requests=2), 0)
    assert usage.begin(0) is usage.begin(0) is None
    over = begun(usage, 0)
    assert over.wait_s == pytest.approx(30)
    assert over.message == "2 requests per minute for each key"
    # One that was refused has used nothing.
    assert usage.begin(30) is None
    assert usage.headers(30) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }


def test_tokens_per_minute_may_be_overdrawn_once() -> None:
    usage = Usage(Rates(requests=100, tokens=60), 0)
    assert usage.begin(0) is None
    usage.charge(90, 0)
    over = begun(usage, 0)
    assert over.wait_s == pytest.approx(31)
    assert "60 tokens per minute" in over.message
    headers = usage.headers(0)
    assert headers["x-ratelimit-limit-tokens"] == "60"
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "1m30s"
    assert headers["x-ratelimit-remaining-requests"] == "99"
    assert usage.begin(31) is None


def test_requests_at_the_same_time() -> None:
    usage = Usage(Rates(concurrent=1), 0)
    assert usage.begin(0) is None
    over = begun(usage, 0)
    assert (over.wait_s, usage.running) == (None, 1)
    usage.end()
    assert usage.begin(0) is None
    assert usage.headers(0) == {}


def test_no_bound() -> None:
    usage = Usage(Rates(), 0)
    assert all(usage.begin(0) is None for _ in range(1000))
    usage.charge(10**9, 0)
    assert usage.begin(0) is None
    assert not Rates() and Rates(concurrent=1)
