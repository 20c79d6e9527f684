"""The answers on the wire. Types are for mypy and the OpenAPI page; the values are plain dicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before 3.12


class PromptTokensDetails(TypedDict):
    """Where prompt tokens came from."""

    cached_tokens: int


class Usage(TypedDict):
    """What an answer cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AssistantMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: str


class ChatCompletion(TypedDict):
    """The whole answer of a chat endpoint."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict, total=False):
    """What is new in a chunk."""

    role: Literal["assistant"]
    content: str


class ChatChunkChoice(TypedDict):
    """A piece of one answer to a conversation."""

    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: str | None


class ChatChunk(TypedDict):
    """One event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class TextChoice(TypedDict):
    """One continuation of a prompt, or a piece of it."""

    index: int
    text: str
    logprobs: None
    finish_reason: str | None


class TextCompletion(TypedDict):
    """The whole answer of ``/v1/completions``, or one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


@dataclass(frozen=True, slots=True)
class Header:
    """What the object, or every chunk, of one answer begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished generation, in no wire format yet."""

    text: str
    finish_reason: str


def usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> Usage:
    """The usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def chat_completion(header: Header, choices: Sequence[Choice], usage: Usage) -> ChatCompletion:
    """The object form of a chat answer."""
    return {
        "id": header.id,
        "object": "chat.completion",
        "created": header.created,
        "model": header.model,
        "system_fingerprint": header.system_fingerprint,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage,
    }


def chat_chunk(header: Header, choices: list[ChatChunkChoice]) -> ChatChunk:
    """One chunk of a chat stream."""
    return {
        "id": header.id,
        "object": "chat.completion.chunk",
        "created": header.created,
        "model": header.model,
        "system_fingerprint": header.system_fingerprint,
        "choices": choices,
    }


def chat_delta(index: int, delta: ChatDelta, finish_reason: str | None = None) -> ChatChunkChoice:
    """The one choice of a chat chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def text_chunk(header: Header, choices: list[TextChoice]) -> TextCompletion:
    """One chunk of a completion stream."""
    return {
        "id": header.id,
        "object": "text_completion",
        "created": header.created,
        "model": header.model,
        "system_fingerprint": header.system_fingerprint,
        "choices": choices,
    }


def text_choice(index: int, text: str, finish_reason: str | None = None) -> TextChoice:
    """A choice of a completion, or a piece of one."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def text_completion(header: Header, choices: Sequence[Choice], usage: Usage) -> TextCompletion:
    """The object form of a completion."""
    pieces = [text_choice(i, choice.text, choice.finish_reason) for i, choice in enumerate(choices)]
    return {**text_chunk(header, pieces), "usage": usage}
