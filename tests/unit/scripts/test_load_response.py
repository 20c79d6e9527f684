"""Only a stream that came to its proper end counts as complete; all else says what was wrong."""

import json
from typing import Any

import pytest

from scripts.load.outcome import Outcome
from scripts.load.response import StreamedResponse

EVENT_STREAM = "text/event-stream; charset=utf-8"
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}
ERROR = {"error": {"message": "no", "type": "server_error", "code": "worker_died"}}


def content(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def text(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]}


def streamed(*events: dict[str, Any] | str, max_tokens: int = 0) -> Outcome:
    """The outcome of a stream that brings an event each second from second 1 on."""
    response = StreamedResponse("x", 0.0, max_tokens)
    response.head(200, EVENT_STREAM, None)
    for number, event in enumerate(events, 1):
        line = event if isinstance(event, str) else json.dumps(event)
        response.feed(f"data: {line}\n\n".encode(), float(number))
    response.end(len(events) + 0.5)
    return response.outcome(99.0)


def answered(status: int, body: str, content_type: str = "application/json") -> Outcome:
    response = StreamedResponse("x", 0.0)
    response.head(status, content_type, "3")
    response.feed(body.encode(), 1.0)
    response.end(2.0)
    return response.outcome(99.0)


def test_a_complete_chat() -> None:
    outcome = streamed(ROLE, content("a"), content("b"), END, USAGE, "[DONE]", max_tokens=6)
    assert (outcome.kind, outcome.code, outcome.text) == ("completed", "", "ab")
    # The chunk that only tells the role is not the first text.
    assert outcome.content_s == (2.0, 3.0)
    assert outcome.ttft_s == 2.0
    assert outcome.e2el_s == 6.5
    assert outcome.tpot_s == pytest.approx((6.5 - 2.0) / 4)
    assert outcome.gaps_s == [1.0]
    assert (outcome.prompt_tokens, outcome.cached_tokens, outcome.completion_tokens) == (7, 3, 5)
    assert outcome.has_usage
    assert outcome.tokens_per_chunk == 2.5
    assert outcome.is_short


def test_a_complete_completion_without_usage_counts_chunks() -> None:
    outcome = streamed(text("a"), text("b"), text("", "length"), "[DONE]", max_tokens=2)
    assert (outcome.kind, outcome.text, outcome.finish_reason) == ("completed", "ab", "length")
    assert (outcome.completion_tokens, outcome.has_usage, outcome.is_short) == (2, False, False)


def test_thoughts_are_text() -> None:
    thought = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    assert streamed(thought, END, "[DONE]").content_s == (1.0,)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([content("a"), END], "missing_done"),
        ([content("a"), "[DONE]"], "missing_finish_reason"),
        ([], "missing_finish_reason"),
        ([content("a"), ERROR], "worker_died"),
        ([content("a"), END, ERROR, "[DONE]"], "worker_died"),
        ([{"error": "text"}, "[DONE]"], "error_event"),
        ([{"error": {"message": "m", "type": "server_error", "code": None}}], "server_error"),
        (["{broken"], "not_json"),
        (["[1]"], "not_json"),
    ],
)
def test_a_stream_that_ends_otherwise_has_failed(events: list[Any], code: str) -> None:
    outcome = streamed(*events)
    assert (outcome.kind, outcome.code) == ("failed", code)


def test_an_error_event_by_name_has_failed() -> None:
    response = StreamedResponse("x", 0.0)
    response.head(200, EVENT_STREAM, None)
    response.feed(b'error: {"code":500,"message":"m"}\n\n', 1.0)
    response.end(2.0)
    outcome = response.outcome(9.0)
    assert (outcome.kind, outcome.code, outcome.ended_s) == ("failed", "500", 1.0)


@pytest.mark.parametrize(("status", "kind"), [(429, "refused"), (503, "unavailable")])
def test_being_full_is_no_failure(status: int, kind: str) -> None:
    outcome = answered(status, json.dumps(ERROR))
    assert (outcome.kind, outcome.code, outcome.retry_after) == (kind, str(status), "3")


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, json.dumps(ERROR), "worker_died"),
        (404, "not here", "http_404"),
        (422, '{"detail": []}', "http_422"),
        (200, "{}", "not_a_stream"),
    ],
)
def test_other_answers_have_failed(status: int, body: str, code: str) -> None:
    outcome = answered(status, body)
    assert (outcome.kind, outcome.code, outcome.detail) == ("failed", code, body)


def test_what_was_given_up_keeps_its_reason_and_time() -> None:
    response = StreamedResponse("x", 0.0)
    response.head(200, EVENT_STREAM, None)
    response.feed(f"data: {json.dumps(content('a'))}\n\n".encode(), 1.0)
    assert response.outcome(1.5).kind == "incomplete"
    assert response.n_chunks == 1
    response.give_up("disconnected", "", 2.0)
    response.end(3.0)
    outcome = response.outcome(4.0)
    assert (outcome.kind, outcome.ended_s) == ("disconnected", 2.0)
