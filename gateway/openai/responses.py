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


class TopLogprob(TypedDict):
    """A token that might have come, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that has come."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """How likely the tokens of an answer, or of a piece of it, were."""

    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """The same of a completion; the places in the lists are the tokens'."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CalledFunction(TypedDict):
    """The function of a call; arguments are JSON, as text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
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


class FunctionDelta(TypedDict):
    """A piece of a call's function; its name comes whole, and once."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """A piece of a call; its id and type come once."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class ChatDelta(TypedDict, total=False):
    """What is new in a chunk."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCallDelta]


class ChatChunkChoice(TypedDict):
    """A piece of one answer to a conversation."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
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
    logprobs: TextLogprobs | None
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
    """A finished generation, in no wire format yet.

    Attributes:
        text: all of it.
        finish_reason: why it ended.
        tool_calls: the calls in it; ``text`` is what comes before them then.
        chat_logprobs: how likely its tokens were, if it belongs to a chat and that was asked for.
        text_logprobs: the same of a completion.
    """

    text: str
    finish_reason: str
    tool_calls: tuple[ToolCall, ...] = ()
    chat_logprobs: ChatLogprobs | None = None
    text_logprobs: TextLogprobs | None = None


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
                "message": _message(choice),
                "logprobs": choice.chat_logprobs,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage,
    }


def _message(choice: Choice) -> AssistantMessage:
    if not choice.tool_calls:
        return {"role": "assistant", "content": choice.text, "refusal": None}
    return {
        "role": "assistant",
        "content": choice.text or None,
        "refusal": None,
        "tool_calls": list(choice.tool_calls),
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


def chat_delta(
    index: int,
    delta: ChatDelta,
    finish_reason: str | None = None,
    logprobs: ChatLogprobs | None = None,
) -> ChatChunkChoice:
    """The one choice of a chat chunk."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


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


def text_choice(
    index: int,
    text: str,
    finish_reason: str | None = None,
    logprobs: TextLogprobs | None = None,
) -> TextChoice:
    """A choice of a completion, or a piece of one."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def text_completion(header: Header, choices: Sequence[Choice], usage: Usage) -> TextCompletion:
    """The object form of a completion."""
    pieces = [
        text_choice(index, choice.text, choice.finish_reason, choice.text_logprobs)
        for index, choice in enumerate(choices)
    ]
    return {**text_chunk(header, pieces), "usage": usage}
