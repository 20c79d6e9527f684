"""The oracle of the campaign sees what must not be, and lets pass what must."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import ApiError, error_body
from scripts.campaign.asks import Ask, Rubbish
from scripts.campaign.oracle import FaultLog, judge, judge_rubbish
from scripts.client import Answer
from shared.errors import ErrorCode

STREAM = Ask(
    name="chat",
    path="/v1/chat/completions",
    body={},
    shape="chat",
    is_stream=True,
    texts=("Hello, you",),
    finish_reasons=("stop",),
    deadline_s=10.0,
    queue_timeout_s=5.0,
)
WHOLE = replace(STREAM, is_stream=False)
HASTY = replace(STREAM, headers=(("x-request-timeout", "10"),))
SHORT_FORM = replace(STREAM, is_stream=False, shape="text")
EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8"}
DONE = "[DONE]"
NOTHING = FaultLog()
CROWD = FaultLog(crowd=[(99.0, 3), (100.5, 9), (100.9, 2)], max_queue=8)
FEW = FaultLog(crowd=[(99.0, 9), (99.5, 8), (102.0, 9)], max_queue=8)
ZYGOTE_KILLED = FaultLog(zygotes=[100.2, 100.4, 100.6])


def chunk(text: str = "", reason: str | None = None, index: int = 0) -> dict[str, Any]:
    delta = {"content": text} if text else {}
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def failure(code: ErrorCode) -> Any:
    return error_body(ApiError(code, "Why."))


def sse(*events: Any) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def streamed(*events: Any, **more: Any) -> Answer:
    return replace(answer(200, sse(*events), EVENT_STREAM), **more)


def answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return Answer(
        began_s=100.0,
        sent_s=100.0,
        ended_s=101.0,
        status=status,
        headers=headers or {},
        pieces=[(100.5, body)],
        end="complete",
    )


def whole(text: str = "Hello, you", reason: str | None = "stop") -> Answer:
    choice = {"index": 0, "message": {"content": text}, "finish_reason": reason}
    body = {"choices": [choice], "usage": {"completion_tokens": 3}}
    return answer(200, json.dumps(body).encode())


def refused(code: ErrorCode, **more: Any) -> Answer:
    response = ApiError(code, "Why.").response()
    given = answer(response.status_code, bytes(response.body), dict(response.headers))
    return replace(given, **more)


GOOD = (chunk("Hello"), chunk(", you"), chunk(reason="stop"), DONE)
KILLED = FaultLog(outside=[100.5])
KILLED_TWICE = FaultLog(outside=[100.4, 100.6])
CRASHED_TWICE = FaultLog(own=[100.4, 100.6])

RIGHT: dict[str, tuple[Ask, Answer, FaultLog, str]] = {
    "stream": (STREAM, streamed(*GOOD), NOTHING, "answered"),
    "whole": (WHOLE, whole(), NOTHING, "answered"),
    "short form": (SHORT_FORM, answer(200, b'"Hello, you"'), NOTHING, "answered"),
    "cut by a kill": (
        STREAM,
        streamed(chunk("Hel"), failure(ErrorCode.WORKER_CRASHED)),
        KILLED,
        "stream worker_crashed",
    ),
    "kills workers": (WHOLE, refused(ErrorCode.WORKER_CRASHED), CRASHED_TWICE,
                      "500 worker_crashed"),
    "queue full": (STREAM, refused(ErrorCode.QUEUE_FULL), CROWD, "429 queue_full"),
    "queue timeout": (STREAM, refused(ErrorCode.QUEUE_TIMEOUT, ended_s=105.1), NOTHING,
                      "503 queue_timeout"),
    "deadline": (HASTY, refused(ErrorCode.REQUEST_TIMEOUT, ended_s=110.1), NOTHING,
                 "504 request_timeout"),
    "deadline in a stream": (
        HASTY,
        streamed(chunk("Hel"), failure(ErrorCode.REQUEST_TIMEOUT), ended_s=110.1),
        NOTHING,
        "stream request_timeout",
    ),
    "left": (STREAM, replace(streamed(chunk("Hel")), end="left"), NOTHING, "left"),
    "left in the middle of an event": (
        STREAM, replace(streamed(*GOOD), pieces=[(100.5, sse(*GOOD)[:-40])], end="left"), NOTHING,
        "left",
    ),
    "left a refusal": (
        STREAM, refused(ErrorCode.QUEUE_FULL, pieces=[(100.5, b'{"err')], end="left"), CROWD, "left"
    ),
    "slow by itself": (
        STREAM, streamed(*GOOD, ended_s=114.0, own_delay_s=5.0), NOTHING, "answered"
    ),
}  # fmt: skip

WRONG: dict[str, tuple[Ask, Answer, FaultLog, str]] = {
    "wrong text": (STREAM, streamed(chunk("Hallo"), chunk(reason="stop"), DONE), NOTHING,
                   "wrong text"),
    "wrong short form": (SHORT_FORM, answer(200, b'"Hello"'), NOTHING, "wrong text"),
    "no finish_reason": (STREAM, streamed(chunk("Hello, you"), DONE), NOTHING,
                         "no finish_reason"),
    "wrong finish_reason": (WHOLE, whole(reason="length"), NOTHING, "finish_reason 'length'"),
    "no DONE": (STREAM, streamed(*GOOD[:-1]), NOTHING, "no [DONE]"),
    "error after DONE": (STREAM, streamed(*GOOD, failure(ErrorCode.WORKER_CRASHED)), KILLED,
                         "after the terminal event"),
    "text after the finish_reason": (
        STREAM, streamed(*GOOD[:-1], chunk("!"), DONE), NOTHING, "goes on after"
    ),
    "half an event": (STREAM, replace(streamed(*GOOD), pieces=[(100.5, sse(*GOOD)[:-1])]), NOTHING,
                      "no empty line"),
    "no chunk": (STREAM, streamed("{}", *GOOD), NOTHING, "an event that is no chunk"),
    "no stream": (STREAM, answer(200, b"{}", {"content-type": "application/json"}), NOTHING,
                  "no stream"),
    "no object": (WHOLE, answer(200, b"[]"), NOTHING, "not the object"),
    "a choice too many": (
        STREAM, streamed(chunk("x", "stop", index=1), *GOOD), NOTHING, "nobody asked for"
    ),
    "queue full of few": (STREAM, refused(ErrorCode.QUEUE_FULL), FEW, "queue_full, and only 8"),
    "queue full after text": (
        STREAM, streamed(chunk("Hel"), failure(ErrorCode.QUEUE_FULL)), CROWD, "had begun"
    ),
    "only the server's own deadline ends it": (
        STREAM, refused(ErrorCode.REQUEST_TIMEOUT, ended_s=110.1), KILLED, "hangs"
    ),
    "a late queue timeout": (
        STREAM, refused(ErrorCode.QUEUE_TIMEOUT, ended_s=106.1), NOTHING, "late: queue_timeout"
    ),
    "broken by the zygote's death": (
        STREAM, streamed(chunk("Hel"), failure(ErrorCode.WORKER_CRASHED)), ZYGOTE_KILLED,
        "nothing was done to any worker",
    ),
    "left after wrong text": (
        STREAM, streamed(chunk("Hal"), end="left"), NOTHING, "wrong text"
    ),
    "left a refusal without Retry-After": (
        STREAM, refused(ErrorCode.QUEUE_FULL, headers={}, end="left"), CROWD, "Retry-After"
    ),
    "left long after the deadline": (
        STREAM, Answer(100.0, 100.0, 112.0, "left"), NOTHING, "late"
    ),
    "late": (STREAM, streamed(*GOOD, ended_s=111.1), NOTHING, "late"),
    "a late error": (STREAM, refused(ErrorCode.REQUEST_TIMEOUT, ended_s=111.1), NOTHING, "late"),
    "hangs": (STREAM, streamed(end="silent"), NOTHING, "hangs"),
    "broken": (STREAM, streamed(*GOOD, end="broken"), KILLED, "connection broke"),
    "nobody there": (STREAM, Answer(100.0, ended_s=100.1, end="not_connected"), KILLED,
                     "nobody listens"),
    "more than an answer": (WHOLE, replace(whole(), trailing=b"HTTP/1.1 500"), NOTHING,
                            "behind the answer"),
    "failed though nothing was done": (
        STREAM, streamed(chunk("Hel"), failure(ErrorCode.WORKER_CRASHED)), NOTHING,
        "nothing was done to any worker",
    ),
    "failed by a kill before any text": (
        STREAM, streamed(failure(ErrorCode.WORKER_CRASHED)), KILLED_TWICE, "had emitted nothing"
    ),
    "a whole answer failed by kills": (
        WHOLE, refused(ErrorCode.WORKER_CRASHED), KILLED_TWICE, "had emitted nothing"
    ),
    "given up after some kills": (
        WHOLE, refused(ErrorCode.MODEL_UNAVAILABLE), KILLED_TWICE, "given up after 2 deaths"
    ),
    "wrong text before an error": (
        STREAM, streamed(chunk("Hal"), failure(ErrorCode.WORKER_CRASHED)), KILLED, "wrong text"
    ),
    "an early 504": (HASTY, refused(ErrorCode.REQUEST_TIMEOUT), NOTHING, "after only 1.00 s"),
    "an early queue timeout": (STREAM, refused(ErrorCode.QUEUE_TIMEOUT), NOTHING,
                               "after only 1.00 s"),
    "no Retry-After": (STREAM, refused(ErrorCode.QUEUE_FULL, headers={}), CROWD, "Retry-After"),
    "500 that may be tried again": (
        WHOLE, refused(ErrorCode.WORKER_CRASHED, headers={}), CRASHED_TWICE, "x-should-retry"
    ),
    "a mistake of the server": (STREAM, refused(ErrorCode.INTERNAL_ERROR), KILLED,
                                "internal_error"),
    "a status that is not the code's": (STREAM, refused(ErrorCode.QUEUE_FULL, status=400), NOTHING,
                                        "status 400 with code queue_full"),
    "another shape": (STREAM, answer(400, b'{"detail": []}'), NOTHING, "OpenAI's shape"),
    "plain text": (STREAM, answer(400, b"Bad request"), NOTHING, "without JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_lets_pass(case: str) -> None:
    ask, given, faults, outcome = RIGHT[case]
    verdict = judge(ask, given, faults)
    assert (verdict.outcome, verdict.violations) == (outcome, ())


@pytest.mark.parametrize("case", WRONG)
def test_sees(case: str) -> None:
    ask, given, faults, what = WRONG[case]
    violations = judge(ask, given, faults).violations
    assert any(what in violation for violation in violations), violations


RUBBISH = Rubbish("no JSON", "/v1/completions", b"{")


def test_rubbish_must_be_refused_in_time() -> None:
    assert judge_rubbish(RUBBISH, refused(ErrorCode.INVALID_JSON), 5.0, NOTHING).violations == ()
    full = refused(ErrorCode.QUEUE_FULL)
    assert judge_rubbish(RUBBISH, full, 5.0, CROWD).violations == ()
    assert judge_rubbish(RUBBISH, full, 5.0, FEW).violations
    late = refused(ErrorCode.INVALID_JSON, ended_s=106.0)
    for wrong in (
        whole(),
        refused(ErrorCode.INTERNAL_ERROR),
        refused(ErrorCode.UNKNOWN_URL),
        refused(ErrorCode.MODEL_LOADING),
        late,
    ):
        assert judge_rubbish(RUBBISH, wrong, 5.0, CROWD).violations
