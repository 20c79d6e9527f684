"""Judges what came of a request. Pure: no clock, no I/O.

A request has exactly one outcome: the undisturbed text, or an error that is proper in its form and
has its cause in what was done to the server. Whatever else there is, is a violation.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import ERRORS
from scripts.campaign.ask import Answer, Ask, Rubbish
from scripts.campaign.transcript import Transcript, read
from shared.errors import ErrorCode

GRACE_S = 1.0
"""How much later than its deadline an answer may be at its end."""
_EARLY_S = 0.2
_OWN_DEATHS, _OUTSIDE_DEATHS = 2, 11
_BUSY = {
    ErrorCode.QUEUE_FULL, ErrorCode.MODEL_LOADING, ErrorCode.INSUFFICIENT_MEMORY,
    ErrorCode.TOO_MANY_CONNECTIONS,
}  # fmt: skip


@dataclass(slots=True)
class FaultLog:
    """What was done to the server so far, by the clock of `Answer`.

    Attributes:
        outside: deaths that are no request's doing: SIGKILL, SIGSTOP, and of templates.
        own: deaths that look like a request's own doing: SIGSEGV, SIGABRT.
    """

    outside: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request came to.

    Attributes:
        outcome: for the statistics: ``answered``, ``left``, or the status and code of an error.
        violations: what must not be; empty if all is well.
    """

    outcome: str
    violations: tuple[str, ...] = ()


def judge(ask: Ask, answer: Answer, faults: FaultLog) -> Verdict:
    """Judge a request that the server could serve."""
    if answer.end == "left":
        return Verdict("left")
    wrong = _transport(answer)
    took_s = answer.ended_s - answer.sent_s - answer.own_delay_s
    if took_s > ask.deadline_s + GRACE_S:
        wrong.append(f"late: {took_s:.2f} s, deadline {ask.deadline_s:g} s")
    if answer.status == 0:
        return Verdict("no answer", tuple(wrong))
    if answer.status != 200:
        code, mistakes = _error_response(answer)
        wrong += mistakes
        if code is not None:
            wrong += _cause(code, ask, answer, faults, emitted=False)
        return Verdict(f"{answer.status} {code.value if code else '?'}", tuple(wrong))
    transcript = read(ask, answer)
    wrong += transcript.disorder
    if transcript.error is None:
        if answer.end == "complete":
            wrong += _complete(ask, transcript)
        return Verdict("answered", tuple(wrong))
    wrong += _text_so_far(ask, transcript)
    code, mistakes = _error_body(transcript.error)
    wrong += mistakes
    if code is not None:
        wrong += _cause(code, ask, answer, faults, emitted=transcript.has_text)
    return Verdict(f"stream {code.value if code else '?'}", tuple(wrong))


def judge_rubbish(rubbish: Rubbish, answer: Answer, within_s: float) -> Verdict:
    """Judge a request that must be refused, within so many seconds."""
    if answer.end == "left":
        return Verdict("left")
    wrong = _transport(answer)
    if answer.ended_s - answer.sent_s - answer.own_delay_s > within_s:
        wrong.append(f"late: a refusal took {answer.ended_s - answer.sent_s:.2f} s")
    if answer.status == 0:
        return Verdict("no answer", tuple(wrong))
    code, mistakes = _error_response(answer)
    wrong += mistakes
    if answer.status not in rubbish.statuses and code not in _BUSY:
        wrong.append(f"status {answer.status} for {rubbish.name}, not {rubbish.statuses}")
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


def _complete(ask: Ask, transcript: Transcript) -> list[str]:
    wrong = []
    if ask.is_stream and not transcript.is_done:
        wrong.append("the stream has no [DONE]")
    for index, (text, reason) in enumerate(zip(ask.texts, ask.finish_reasons, strict=True)):
        got, why = transcript.texts.get(index), transcript.finish_reasons.get(index)
        if why is None:
            wrong.append(f"choice {index} has no finish_reason")
        elif why != reason:
            wrong.append(f"choice {index} has finish_reason {why!r}, not {reason!r}")
        if got != text:
            wrong.append(f"wrong text: choice {index} is {got!r}, not {text!r}")
    if extra := set(transcript.texts) - set(range(len(ask.texts))):
        wrong.append(f"choices that nobody asked for: {sorted(extra)}")
    return wrong


def _text_so_far(ask: Ask, transcript: Transcript) -> list[str]:
    wrong = []
    for index, text in transcript.texts.items():
        if index >= len(ask.texts) or not ask.texts[index].startswith(text):
            wrong.append(f"wrong text: choice {index} begins {text!r}")
    return wrong


def _error_response(answer: Answer) -> tuple[ErrorCode | None, list[str]]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return None, [f"status {answer.status} without JSON: {answer.body[:200]!r}"]
    code, wrong = _error_body(body)
    if code is not None and ERRORS[code][0] != answer.status:
        wrong.append(f"status {answer.status} with code {code.value}")
    if answer.status in (429, 503) and not answer.headers.get("retry-after", "").isdecimal():
        wrong.append(f"status {answer.status} without Retry-After")
    if answer.status == 500 and answer.headers.get("x-should-retry") != "false":
        wrong.append("status 500 without x-should-retry: false")
    return code, wrong


def _error_body(body: Any) -> tuple[ErrorCode | None, list[str]]:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        return None, [f"an error that has not OpenAI's shape: {str(body)[:200]}"]
    if not error["message"] or "Traceback" in error["message"]:
        return None, [f"an error message of no use: {error['message'][:200]!r}"]
    try:
        code = ErrorCode(error["code"])
    except ValueError:
        return None, [f"unknown code {error['code']!r}"]
    if error["type"] != ERRORS[code][1]:
        return code, [f"type {error['type']!r} with code {code.value}"]
    return code, []


def _cause(
    code: ErrorCode, ask: Ask, answer: Answer, faults: FaultLog, *, emitted: bool
) -> list[str]:
    """What is wrong with an error of ``code``, given what was done to the server."""
    took_s = answer.ended_s - answer.began_s
    if code in _BUSY:
        return []
    if code is ErrorCode.QUEUE_TIMEOUT:
        early = took_s < ask.queue_timeout_s - _EARLY_S
        return [f"queue_timeout after only {took_s:.2f} s"] if early else []
    if code is ErrorCode.REQUEST_TIMEOUT:
        early = took_s < ask.deadline_s - _EARLY_S
        return [f"request_timeout after only {took_s:.2f} s"] if early else []
    if code is ErrorCode.MODEL_UNAVAILABLE:
        # It is run again only so often.
        n_deaths = _during(answer, faults.outside) + _during(answer, faults.own)
        return [f"given up after {n_deaths} deaths"] if n_deaths < _OUTSIDE_DEATHS else []
    if code is ErrorCode.WORKER_CRASHED:
        return _crash(ask, answer, faults, emitted)
    return [f"{code.value}: {answer.body[-300:]!r}"]


def _crash(ask: Ask, answer: Answer, faults: FaultLog, emitted: bool) -> list[str]:
    outside, own = _during(answer, faults.outside), _during(answer, faults.own)
    if emitted:
        # The client has had text, so it cannot be run again; but something must have died.
        if outside + own:
            return []
        return ["worker_crashed, and nothing was done to any worker"]

    # The first such death is forgiven.
    if own >= _OWN_DEATHS:
        return []
    return [
        f"a request that had emitted nothing failed, with {outside} deaths from outside and"
        f" {own} of its own meanwhile"
    ]


def _during(answer: Answer, times: list[float]) -> int:
    return sum(answer.began_s <= at_s <= answer.ended_s for at_s in times)
