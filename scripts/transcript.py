"""Reads answers strictly: texts, finish reasons, errors, times, and what is out of order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from scripts.client import Answer

Shape = Literal["chat", "completion", "text"]
"""Of an answer: a chat, a completion, or the short form's JSON string or list of strings."""
_DETAIL_CHARACTERS = 300


@dataclass(slots=True)
class Transcript:
    """What an answer says, as far as it came."""

    texts: dict[int, str] = field(default_factory=dict)  #: by choice
    finish_reasons: dict[int, str] = field(default_factory=dict)  #: of choices that have one
    content_s: list[float] = field(default_factory=list)  #: when events with text came
    usage: dict[str, Any] = field(default_factory=dict)
    error: Any = None  #: the body of an error event
    is_done: bool = False  #: ``[DONE]`` came
    disorder: list[str] = field(default_factory=list)  #: what must not be in such an answer


def read(answer: Answer, shape: Shape, is_stream: bool) -> Transcript:
    """The transcript of a response with status 200; never raises."""
    transcript = Transcript()
    if is_stream:
        _read_stream(transcript, shape, answer)
        return transcript
    try:
        _read_whole(transcript, shape, json.loads(answer.body))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if answer.end == "complete" or not isinstance(error, json.JSONDecodeError):
            transcript.disorder.append(f"not the object that was asked for: {error!r}")
    return transcript


def _read_stream(transcript: Transcript, shape: Shape, answer: Answer) -> None:
    kind = answer.headers.get("content-type")
    if not str(kind).startswith("text/event-stream"):
        transcript.disorder.append(f"no stream but {kind}")
        return
    for at_s, text in _events(answer, transcript):
        if transcript.is_done or transcript.error is not None:
            transcript.disorder.append(f"after the terminal event: {text[:200]}")
        elif text == "[DONE]":
            transcript.is_done = True
        else:
            _read_event(transcript, shape, text, at_s)


def _events(answer: Answer, transcript: Transcript) -> Iterator[tuple[float, str]]:
    """When each server-sent event was whole, and its data."""
    rest = b""
    for at_s, piece in answer.pieces:
        *blocks, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            fields = [line.partition(":") for line in block.decode("utf-8", "replace").split("\n")]
            lines = [value.removeprefix(" ") for name, _, value in fields if name == "data"]
            if lines:
                yield at_s, "\n".join(lines)
    if answer.end == "complete" and rest.strip():
        transcript.disorder.append("the last event has no empty line behind it")


def _read_event(transcript: Transcript, shape: Shape, text: str, at_s: float) -> None:
    try:
        chunk = json.loads(text)
        if chunk.get("error"):
            transcript.error = chunk
            return
        transcript.usage = chunk.get("usage") or transcript.usage
        has_text = [_read_choice(transcript, each, shape, "delta") for each in chunk["choices"]]
        if any(has_text):
            transcript.content_s.append(at_s)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        transcript.disorder.append(f"an event that is no chunk: {error!r} in {text[:200]}")


def _read_whole(transcript: Transcript, shape: Shape, body: Any) -> None:
    if shape == "text":
        transcript.texts = dict(enumerate([body] if isinstance(body, str) else body))
        return
    for choice in body["choices"]:
        _read_choice(transcript, choice, shape, "message")
    transcript.usage = body["usage"]


def _read_choice(transcript: Transcript, choice: Any, shape: Shape, where: str) -> bool:
    """Take a choice in; tells whether it had text. What a model only thinks counts as text."""
    index, reason = choice["index"], choice.get("finish_reason")
    content = choice[where] if shape == "chat" else {"content": choice["text"]}
    text = content.get("content") or content.get("reasoning_content") or ""
    if index in transcript.finish_reasons and (text or reason):
        transcript.disorder.append(f"choice {index} goes on after its finish_reason")
    transcript.texts[index] = transcript.texts.get(index, "") + text
    if reason is not None:
        transcript.finish_reasons[index] = reason
    return bool(text)


Kind = Literal["completed", "failed", "refused", "unavailable"]
"""How a request ended.

``refused`` is a 429 and ``unavailable`` a 503: the server's own word that it is full, so they are
counted apart from failures.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a streamed request with one choice came to. Times as in `Answer`."""

    name: str  #: what its figures are filed under
    kind: Kind
    started_s: float
    ended_s: float
    content_s: tuple[float, ...] = ()  #: arrivals of the chunks with text
    text: str = ""
    finish_reason: str | None = None
    code: str = ""  #: why it failed
    detail: str = ""  #: the server's own words for that
    prompt_tokens: int = 0  #: of the usage, 0 without one
    cached_tokens: int = 0  #: prompt tokens that were not evaluated, by the usage
    completion_tokens: int = 0  #: by the usage; without one, chunks with text

    @property
    def ttft_s(self) -> float | None:
        return self.content_s[0] - self.started_s if self.content_s else None

    @property
    def e2el_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each token after the first; None if there was no second one."""
        if self.ttft_s is None or self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between one chunk with text and the next: the inter-token latencies."""
        return [b - a for a, b in pairwise(self.content_s)]


def outcome(name: str, answer: Answer, path: str) -> Outcome:
    """What became of a request for a stream with one choice at ``path``."""
    transcript = Transcript()
    if answer.status == 200:
        transcript = read(answer, "chat" if "chat" in path else "completion", is_stream=True)
    kind, code, detail = _verdict(answer, transcript)
    usage = transcript.usage
    n_completion = usage.get("completion_tokens")
    return Outcome(
        name=name,
        kind=kind,
        started_s=answer.began_s,
        ended_s=answer.ended_s,
        content_s=tuple(transcript.content_s),
        text=transcript.texts.get(0, ""),
        finish_reason=transcript.finish_reasons.get(0),
        code=code,
        detail=detail[:_DETAIL_CHARACTERS],
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        completion_tokens=len(transcript.content_s) if n_completion is None else n_completion,
    )


def _verdict(answer: Answer, transcript: Transcript) -> tuple[Kind, str, str]:
    """How it ended, and why it failed: a code and words."""
    body = answer.body.decode("utf-8", "replace")
    if transcript.error is not None:
        return "failed", _code(transcript.error, "error_event"), json.dumps(transcript.error)
    if answer.end != "complete":
        return "failed", answer.why, ""
    if answer.status in (429, 503):
        return ("refused" if answer.status == 429 else "unavailable"), str(answer.status), body
    if answer.status != 200:
        try:
            error = json.loads(body)
        except ValueError:
            error = None
        return "failed", _code(error, f"http_{answer.status}"), body
    if transcript.disorder:
        is_stream = not transcript.disorder[0].startswith("no stream")
        return "failed", "disorder" if is_stream else "not_a_stream", transcript.disorder[0]
    if not transcript.finish_reasons or not transcript.is_done:
        return "failed", f"missing_{'done' if transcript.finish_reasons else 'finish_reason'}", ""
    return "completed", "", ""


def _code(body: Any, default: str) -> str:
    """The code in an error of OpenAI's shape, or the type, or ``default``."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return default
    return str(error.get("code") or error.get("type") or default)
