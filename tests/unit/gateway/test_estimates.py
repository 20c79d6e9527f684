"""Tests of what the pool expects of generations."""

import pytest

from gateway.pool.estimates import Estimates
from shared.messages import Finished, Prefilled


def test_what_is_measured_again_and_again_is_believed() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.learn_prefill(Prefilled("r", 300, 100, 400.0))
        estimates.learn_completion(Finished("r", "stop", 50, 1000.0))
    assert estimates.prefill_ms_per_token == pytest.approx(2.0)
    assert estimates.decode_ms_per_token == pytest.approx(20.0)
    assert estimates.completion_tokens == pytest.approx(50)
    assert estimates.prefill_ms(300) == pytest.approx(600.0)
    assert estimates.generation_ms(300, None) == pytest.approx(600.0 + 50 * 20)
    assert estimates.generation_ms(300, 10) == pytest.approx(600.0 + 10 * 20)
    assert estimates.generation_ms(300, 1000) == pytest.approx(600.0 + 50 * 20)


def test_one_measurement_does_not_turn_everything_over() -> None:
    estimates, before = Estimates(), Estimates()
    estimates.learn_prefill(Prefilled("r", 100, 0, 100 * before.prefill_ms_per_token * 2))
    assert before.prefill_ms_per_token < estimates.prefill_ms_per_token
    assert estimates.prefill_ms_per_token < 1.5 * before.prefill_ms_per_token


def test_what_says_little_is_left_out() -> None:
    estimates, before = Estimates(), Estimates()
    estimates.learn_prefill(Prefilled("r", 100, 99, 500.0))
    assert estimates.cached_share > 0, "that much it does say"
    estimates.cached_share = before.cached_share
    assert estimates == before
    estimates.learn_completion(Finished("r", "stop", 0, 3.0))
    assert estimates.decode_ms_per_token == before.decode_ms_per_token
    assert estimates.completion_tokens < before.completion_tokens


def test_how_long_a_worker_may_be_silent() -> None:
    estimates = Estimates()
    assert estimates.stall_s == 120.0, "the model may have to be read from a disk"
    estimates.learn_completion(Finished("r", "stop", 10, 2000.0))
    assert estimates.stall_s == pytest.approx(20 * 32 * 0.2), "a prompt takes no longer than that"
    estimates.learn_prefill(Prefilled("r", 100, 0, 5000.0))
    slowest = estimates.stall_s
    assert slowest == pytest.approx(20 * 32 * 0.05)
    estimates.learn_prefill(Prefilled("r", 100, 0, 100.0))
    assert estimates.stall_s == slowest, "what was slow once may be so again"


def test_a_fast_model_gets_some_seconds() -> None:
    estimates = Estimates()
    estimates.learn_prefill(Prefilled("r", 100, 0, 10.0))
    assert estimates.stall_s == 5.0
