"""Reads the body of an answer strictly: texts, finish reasons, errors, and what is out of order."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripts.campaign.ask import Answer, Ask, Shape
from scripts.load.sse import EventParser


@dataclass(slots=True)
class Transcript:
    """What an answer says.

    Attributes:
        texts: of each choice, as far as it came.
        finish_reasons: of each choice that has one.
        error: the body of an error event.
        is_done: whether ``[DONE]`` came.
        disorder: what must not be in such an answer.
    """

    texts: dict[int, str] = field(default_factory=dict)
    finish_reasons: dict[int, str] = field(default_factory=dict)
    error: Any = None
    is_done: bool = False
    disorder: list[str] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        """Whether the client has seen text."""
        return any(self.texts.values())


def read(ask: Ask, answer: Answer) -> Transcript:
    """The transcript of a response with status 200; never raises.

    Of a response that the client has not read to its end, what is whole is read.
    """
    transcript = Transcript()
    if ask.is_stream:
        _read_stream(transcript, ask.shape, answer)
    else:
        try:
            _read_whole(transcript, ask, json.loads(answer.body))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, json.JSONDecodeError) and answer.end != "complete":
                return transcript
            transcript.disorder.append(f"not the object that was asked for: {error!r}")
    return transcript


def _read_stream(transcript: Transcript, shape: Shape, answer: Answer) -> None:
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        transcript.disorder.append(f"no stream but {answer.headers.get('content-type')}")
        return
    parser = EventParser()
    for event in parser.feed(answer.body):
        if transcript.is_done or transcript.error is not None:
            transcript.disorder.append(f"after the terminal event: {event.text[:200]}")
        elif event.text == "[DONE]":
            transcript.is_done = True
        else:
            _read_event(transcript, shape, event.text)
    if answer.end == "complete" and parser.end():
        transcript.disorder.append("the last event has no empty line behind it")


def _read_event(transcript: Transcript, shape: Shape, text: str) -> None:
    try:
        chunk = json.loads(text)
        if "error" in chunk:
            transcript.error = chunk
            return
        for choice in chunk["choices"]:
            _read_choice(transcript, choice, _text_of_delta if shape == "chat" else _text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        transcript.disorder.append(f"an event that is no chunk: {error!r} in {text[:200]}")


def _read_whole(transcript: Transcript, ask: Ask, body: Any) -> None:
    if ask.shape == "text":
        texts = [body] if isinstance(body, str) else body
        transcript.texts = dict(enumerate(texts))
        # The short form says no reasons.
        transcript.finish_reasons = dict(enumerate(ask.finish_reasons[: len(texts)]))
        return
    for choice in body["choices"]:
        _read_choice(transcript, choice, _text_of_message if ask.shape == "chat" else _text)
    if body["usage"]["completion_tokens"] < len(ask.texts):
        transcript.disorder.append(f"usage {body['usage']}")


def _read_choice(transcript: Transcript, choice: Any, text_of: Callable[[Any], str]) -> None:
    index, text, reason = choice["index"], text_of(choice), choice.get("finish_reason")
    if index in transcript.finish_reasons and (text or reason):
        transcript.disorder.append(f"choice {index} goes on after its finish_reason")
    transcript.texts[index] = transcript.texts.get(index, "") + text
    if reason is not None:
        transcript.finish_reasons[index] = reason


def _text(choice: Any) -> str:
    return str(choice["text"])


def _text_of_delta(choice: Any) -> str:
    return choice["delta"].get("content") or ""


def _text_of_message(choice: Any) -> str:
    return str(choice["message"]["content"])
