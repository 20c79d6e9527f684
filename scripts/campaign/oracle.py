"""Judges what came of a request. Pure: no clock, no I/O.

A request has exactly one outcome: the undisturbed text, or an error that is proper in its form and
has its cause in what was done to the server. Whatever else there is, is a violation.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from scripts.campaign.asks import Ask, Rubbish
from scripts.client import Answer
from scripts.transcript import Transcript, read
from shared.errors import ErrorCode

GRACE_S = 1.0
"""How much later than its deadline an answer may be at its end."""
_EARLY_S = 0.2
_STATUSES = {
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.WORKER_CRASHED: 500,
    ErrorCode.MODEL_UNAVAILABLE: 503,
    ErrorCode.QUEUE_TIMEOUT: 503,
    ErrorCode.REQUEST_TIMEOUT: 504,
}
"""Of the errors that a request which can be served may come to."""
_OWN_DEATHS, _OUTSIDE_DEATHS = 2, 11


@dataclass(slots=True)
class FaultLog:
    """What was done to the server so far, by the clock of `Answer`.

    A worker that dies takes all requests with it that it runs. The deaths of zygotes excuse
    nothing: living workers go on.
    """

    #: deaths of workers that are no request's doing: SIGKILL, SIGSTOP
    outside: list[float] = field(default_factory=list)
    #: deaths of workers that look like a request's own doing: SIGSEGV, SIGABRT
    own: list[float] = field(default_factory=list)
    zygotes: list[float] = field(default_factory=list)
    #: when how many generations were asked for and not ended, at each change
    crowd: list[tuple[float, int]] = field(default_factory=list)
    max_queue: int = 0  #: how many generations the server lets wait


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request came to."""

    outcome: str  #: ``answered``, ``left``, or the status and code of an error
    violations: tuple[str, ...] = ()


def judge(ask: Ask, answer: Answer, faults: FaultLog) -> Verdict:
    """Judge a request that the server could serve; of a client that left, as far as it read."""
    wrong = _transport(answer)
    if answer.took_s > ask.deadline_s + GRACE_S:
        wrong.append(f"late: {answer.took_s:.2f} s, deadline {ask.deadline_s:g} s")
    if answer.status == 0:
        outcome = "no answer"
    elif answer.status == 200:
        outcome = _judge_ok(ask, answer, faults, wrong)
    else:
        code = _judge_refusal(answer, wrong)
        if code is not None:
            wrong += _cause(code, ask, answer, faults, emitted=False)
        outcome = f"{answer.status} {code.value if code else '?'}"
    return Verdict("left" if answer.end == "left" else outcome, tuple(wrong))


def judge_rubbish(rubbish: Rubbish, answer: Answer, within_s: float, faults: FaultLog) -> Verdict:
    wrong = _transport(answer)
    if answer.took_s > within_s:
        wrong.append(f"late: a refusal took {answer.took_s:.2f} s")
    if answer.status == 0:
        return Verdict("no answer", tuple(wrong))
    code = _judge_refusal(answer, wrong)
    if code is ErrorCode.QUEUE_FULL:
        wrong += _crowding(answer, faults)
    elif answer.status != rubbish.status:
        wrong.append(f"status {answer.status} for {rubbish.name}, not {rubbish.status}")
    return Verdict(f"{answer.status} {code.value if code else '?'}", tuple(wrong))


def _transport(answer: Answer) -> list[str]:
    wrong = []
    if answer.end == "not_connected":
        wrong.append(f"nobody listens: {answer.why}")
    elif answer.end == "silent":
        wrong.append(f"hangs: no end of the answer after {answer.ended_s - answer.began_s:.1f} s")
    elif answer.end == "broken":
        wrong.append(f"the connection broke: {answer.why}; so far {answer.body[-200:]!r}")
    if answer.trailing:
        wrong.append(f"behind the answer: {answer.trailing[:200]!r}")
    return wrong


def _judge_ok(ask: Ask, answer: Answer, faults: FaultLog, wrong: list[str]) -> str:
    """Judge a response with status 200; returns the outcome."""
    transcript = read(answer, ask.shape, ask.is_stream)
    is_complete = answer.end == "complete" and transcript.error is None
    wrong += transcript.disorder
    wrong += _complete(ask, transcript) if is_complete else _text_so_far(ask, transcript)
    if transcript.error is None:
        return "answered" if is_complete else "unfinished"
    code = _error_body(transcript.error, wrong)
    if code is None:
        return "stream ?"
    if error_type(_STATUSES.get(code, 500)) != transcript.error["error"]["type"]:
        wrong.append(f"type of {transcript.error}")
    if code is ErrorCode.QUEUE_FULL:
        wrong.append("queue_full after the response had begun")
    else:
        wrong += _cause(code, ask, answer, faults, emitted=any(transcript.texts.values()))
    return f"stream {code.value}"


def _complete(ask: Ask, transcript: Transcript) -> list[str]:
    wrong = []
    if ask.is_stream and not transcript.is_done:
        wrong.append("the stream has no [DONE]")
    for index, (text, reason) in enumerate(zip(ask.texts, ask.finish_reasons, strict=True)):
        got, why = transcript.texts.get(index), transcript.finish_reasons.get(index)
        # The short form says no reasons.
        why = reason if ask.shape == "text" else why
        if why is None:
            wrong.append(f"choice {index} has no finish_reason")
        elif why != reason:
            wrong.append(f"choice {index} has finish_reason {why!r}, not {reason!r}")
        if got != text:
            wrong.append(f"wrong text: choice {index} is {got!r}, not {text!r}")
    if extra := set(transcript.texts) - set(range(len(ask.texts))):
        wrong.append(f"choices that nobody asked for: {sorted(extra)}")
    n_tokens = transcript.usage.get("completion_tokens", 0)
    if not ask.is_stream and ask.shape != "text" and n_tokens < len(ask.texts):
        wrong.append(f"usage {transcript.usage}")
    return wrong


def _text_so_far(ask: Ask, transcript: Transcript) -> list[str]:
    return [
        f"wrong text: choice {index} begins {text!r}"
        for index, text in transcript.texts.items()
        if index >= len(ask.texts) or not ask.texts[index].startswith(text)
    ]


def _judge_refusal(answer: Answer, wrong: list[str]) -> ErrorCode | None:
    """Judge the form of an error response; returns its code if it can be known."""
    if answer.status in (429, 503) and not answer.headers.get("retry-after", "").isdecimal():
        wrong.append(f"status {answer.status} without Retry-After")
    if answer.status == 500 and answer.headers.get("x-should-retry") != "false":
        wrong.append("status 500 without x-should-retry: false")
    try:
        body = json.loads(answer.body)
    except ValueError:
        # Who leaves need not have read all of it.
        if answer.end != "left":
            wrong.append(f"status {answer.status} without JSON: {answer.body[:200]!r}")
        return None
    code = _error_body(body, wrong)
    if code is not None and _STATUSES.get(code, answer.status) != answer.status:
        wrong.append(f"status {answer.status} with code {code.value}")
    if code is not None and body["error"]["type"] != error_type(answer.status):
        wrong.append(f"type {body['error']['type']!r} with status {answer.status}")
    return code


def _error_body(body: Any, wrong: list[str]) -> ErrorCode | None:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        wrong.append(f"an error that has not OpenAI's shape: {str(body)[:200]}")
        return None
    if not error["message"] or "Traceback" in error["message"]:
        wrong.append(f"an error message of no use: {error['message'][:200]!r}")
    try:
        return ErrorCode(error["code"])
    except ValueError:
        wrong.append(f"unknown code {error['code']!r}")
        return None


def error_type(status: int) -> str:
    """OpenAI's type of an error with that status."""
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _cause(
    code: ErrorCode, ask: Ask, answer: Answer, faults: FaultLog, *, emitted: bool
) -> list[str]:
    """What is wrong with an error of ``code``, after what was done to the server."""
    took_s = answer.ended_s - answer.began_s
    match code:
        case ErrorCode.QUEUE_FULL:
            return _crowding(answer, faults)
        case ErrorCode.QUEUE_TIMEOUT if took_s < ask.queue_timeout_s - _EARLY_S:
            return [f"queue_timeout after only {took_s:.2f} s"]
        case ErrorCode.QUEUE_TIMEOUT if answer.took_s > ask.queue_timeout_s + GRACE_S:
            return [f"late: queue_timeout after {answer.took_s:.2f} s"]
        case ErrorCode.REQUEST_TIMEOUT if not ask.has_own_deadline:
            # There is nothing that takes so long, if nothing hangs.
            return [f"hangs: only the server's own bound of {ask.deadline_s:g} s has ended it"]
        case ErrorCode.REQUEST_TIMEOUT if took_s < ask.deadline_s - _EARLY_S:
            return [f"request_timeout after only {took_s:.2f} s"]
        case ErrorCode.QUEUE_TIMEOUT | ErrorCode.REQUEST_TIMEOUT:
            return []
        case ErrorCode.MODEL_UNAVAILABLE:
            # It is run again only so often.
            n_deaths = _during(answer, faults.outside) + _during(answer, faults.own)
            return [] if n_deaths >= _OUTSIDE_DEATHS else [f"given up after {n_deaths} deaths"]
        case ErrorCode.WORKER_CRASHED:
            return _crash(answer, faults, emitted)
        case _:
            return [f"{code.value}: {answer.body[-300:]!r}"]


def _crash(answer: Answer, faults: FaultLog, emitted: bool) -> list[str]:
    outside, own = _during(answer, faults.outside), _during(answer, faults.own)
    if emitted:
        # The client has had text, so it cannot be run again; but something must have died.
        return [] if outside + own else ["worker_crashed, and nothing was done to any worker"]
    # The first such death is forgiven.
    if own >= _OWN_DEATHS:
        return []
    text = "a request that had emitted nothing failed, with"
    return [f"{text} {outside} deaths from outside and {own} of its own meanwhile"]


def _crowding(answer: Answer, faults: FaultLog) -> list[str]:
    """Whether a full queue cannot be, so few generations had been asked for."""
    first = max(0, bisect_right(faults.crowd, (answer.began_s, 0)) - 1)
    there = (n for at_s, n in faults.crowd[first:] if at_s <= answer.ended_s)
    most = max(there, default=0)
    if most > faults.max_queue:
        return []
    return [f"queue_full, and only {most} generations were asked for, of which as many may wait"]


def _during(answer: Answer, times: list[float]) -> int:
    return sum(answer.began_s <= at_s <= answer.ended_s for at_s in times)
