"""What is refused before any worker hears of it."""

from dataclasses import replace

import pytest
from gateway.openai.admission import (
    check_fan_out,
    check_length,
    check_message_count,
    check_model_name,
    check_open,
    loaded_model,
)

from gateway.errors import ApiError
from gateway.pool.base import PoolRefused, PoolStatus
from shared.errors import ErrorCode
from tests.unit.gateway.fakes import CONFIG, MODEL, READY, loading


def test_only_the_served_model_has_a_name_here() -> None:
    check_model_name(None, CONFIG)
    check_model_name("org/model", CONFIG)
    with pytest.raises(ApiError, match="'org/model'") as caught:
        check_model_name("gpt-4", CONFIG)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    with pytest.raises(ApiError, match=r"'x{100}\.\.\.'") as caught:
        check_model_name("x" * 1_000_000, CONFIG)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("starting", ErrorCode.MODEL_LOADING),
        ("failed", ErrorCode.MODEL_UNAVAILABLE),
        ("closing", ErrorCode.SHUTTING_DOWN),
    ],
)
def test_without_a_model_nothing_can_be_rendered(state: str, code: ErrorCode) -> None:
    with pytest.raises(PoolRefused) as caught:
        loaded_model(replace(loading(), state=state).load)  # type: ignore[arg-type]
    assert caught.value.code is code
    assert loaded_model(READY.load) is MODEL


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (replace(READY, waiting=6), ErrorCode.QUEUE_FULL, 7),
        (replace(READY, waiting=4, slots=0), ErrorCode.QUEUE_FULL, 7),
        (replace(READY, reason="no memory"), ErrorCode.INSUFFICIENT_MEMORY, 7),
        (replace(READY, state="closing"), ErrorCode.SHUTTING_DOWN, 5),
        (loading(), ErrorCode.MODEL_LOADING, 5),
    ],
)
def test_what_nobody_can_have_now_is_refused_to_all(
    status: PoolStatus, code: ErrorCode, retry_after: int
) -> None:
    with pytest.raises(PoolRefused) as refused:
        check_open(replace(status.load, retry_after_s=7))
    assert (refused.value.code, refused.value.retry_after) == (code, retry_after)
    check_open(replace(READY, waiting=5).load)
    check_open(replace(READY, state="failed", reason="why").load)  # the pool itself refuses


def test_fan_out_has_a_limit_forever_and_one_for_now() -> None:
    check_fan_out(2, 3, ("prompt", "n"), 2, READY.load)
    for prompts, n, param in ((1, 7, "n"), (7, 1, "prompt"), (1, 10**12, "n")):
        with pytest.raises(ApiError, match="takes 6") as caught:
            check_fan_out(prompts, n, ("prompt", "n"), 2, READY.load)
        assert caught.value.param == param
    with pytest.raises(PoolRefused) as refused:
        load = replace(READY, waiting=3).load
        check_fan_out(1, 4, ("prompt", "n"), 2, replace(load, retry_after_s=7))
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.QUEUE_FULL, 7)
    check_fan_out(
        1, 6, ("prompt", "n"), 2, loading(waiting=3).load
    )  # whatever: the pool itself refuses


def test_a_prompt_that_cannot_fit_is_refused_with_both_numbers() -> None:
    check_length(("é" * 1000,), "prompt", MODEL)
    check_length(("é" * 900, "é" * 50, "é" * 50), "prompt", MODEL)
    with pytest.raises(ApiError, match=r"100 tokens.*2000 bytes.*2001") as caught:
        check_length(("é" * 1000, ".", ""), "prompt", MODEL)
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    check_message_count(100, MODEL)
    with pytest.raises(ApiError, match="101 messages"):
        check_message_count(101, MODEL)
