"""``/v1/chat/completions`` and ``/v2/chat/completions``: conversations in, answers out."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import orjson
from pydantic import Field
from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

from gateway.answer.pieces import (
    Begun,
    CallArguments,
    CallBegun,
    Choice,
    Ended,
    Piece,
    Reasoning,
    Text,
    Usage,
)
from gateway.ask import Ask, ChatPrompt
from gateway.dialects import Dialect, Endpoint
from gateway.dialects.conversation import (
    Conversation,
    Conversations,
    ToolChoice,
    Tools,
    tool_use,
)
from gateway.dialects.fields import MOST_LOGPROBS, refused
from gateway.dialects.openai_answer import (
    HOLE,
    ChatLogprobs,
    OpenAiWriter,
    UsageObject,
    chat_logprobs,
)
from gateway.dialects.openai_request import (
    GenerationRequest,
    common_fields,
    form_of,
    read_request,
)
from shared.logprobs import TokenLogprobs
from shared.typing import assert_never


class _ChatFields(GenerationRequest):
    """What the chat endpoints have in common."""

    logprobs: bool | None = Field(
        None,
        description="Tell how likely each token was by the model's own distribution: before"
        " temperature, penalties and biases.",
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="And so many of its alternatives."
    )
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None, description="`none`, `auto`, `required`, a function, or allowed ones."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether an answer may have several calls; true if not given."
    )


class ChatRequest(_ChatFields):
    """The body of ``/v1/chat/completions``."""

    messages: Conversation = Field(
        description="The conversation. If the last message is the assistant's, it is continued."
    )


class ManyChatsRequest(_ChatFields):
    """The body of ``/v2/chat/completions`` with several conversations."""

    messages: Conversations


class CallFunction(TypedDict):
    """The function of a call; arguments are JSON, as text."""

    name: str
    arguments: str


class CallObject(TypedDict):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CallFunction


class AssistantMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[CallObject]]


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
    usage: UsageObject


class ChatWriter(OpenAiWriter):
    """Chunks of a chat, or the object."""

    kind = "chat.completion.chunk"

    def piece(self, index: int, piece: Piece) -> bytes:
        envelope = self.envelopes.get(index)
        if envelope is not None and type(piece) is Text and not self.tells_logprobs:
            return envelope[0] + orjson.dumps(piece.text) + envelope[1]
        beginning = b""
        if envelope is None and not isinstance(piece, Begun | Reasoning):
            beginning = self._begin(index)
        return beginning + self._event(index, piece)

    def _event(self, index: int, piece: Piece) -> bytes:
        match piece:
            case Text():
                return self._delta(index, {"content": piece.text}, None, piece.logprobs)
            case Begun() | Reasoning():
                return b""
            case CallBegun():
                call: dict[str, Any] = {"index": piece.place, **_call(piece.name, "")}
                return self._delta(index, {"tool_calls": [call]}, None, piece.logprobs)
            case CallArguments():
                call = {"index": piece.place, "function": {"arguments": piece.text}}
                return self._delta(index, {"tool_calls": [call]}, None, piece.logprobs)
            case Ended():
                return self._delta(index, {}, piece.reason, piece.logprobs or None)
            case _:
                assert_never(piece)

    def whole(self, usage: Usage) -> dict[str, Any]:
        choices = [self._choice(index, choice) for index, choice in enumerate(self.choices)]
        return self.object("chat.completion", choices, usage)

    def _begin(self, index: int) -> bytes:
        """Make the envelope of a choice; returns what to send before its first text."""
        before, after = self._delta(index, {"content": orjson.Fragment(HOLE)}).split(HOLE)
        self.envelopes[index] = before, after
        return self._delta(index, {"role": "assistant", "content": ""})

    def _delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        logprobs: Sequence[TokenLogprobs] | None = None,
    ) -> bytes:
        tells = self.tells_logprobs and logprobs is not None
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(logprobs or ()) if tells else None,
            "finish_reason": reason,
        }
        return self.chunk(choice)

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        message = AssistantMessage(role="assistant", content=choice.text, refusal=None)
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [_call(call.name, call.arguments) for call in choice.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(choice.logprobs) if self.tells_logprobs else None,
            "finish_reason": choice.finish_reason,
        }


def _call(name: str, arguments: str) -> CallObject:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


EXAMPLE = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 100}


def _read(body: Mapping[str, Any]) -> Ask:
    request = read_request(ChatRequest, body)
    return _ask(request, [request.messages])


def _read_many(body: Mapping[str, Any]) -> Ask:
    """One conversation, or a list of them."""
    match body.get("messages"):
        case [list(), *_]:
            request = read_request(ManyChatsRequest, body)
            return _ask(request, request.messages)
        case _:
            return _read(body)


def _ask(request: _ChatFields, conversations: Sequence[Conversation]) -> Ask:
    form = form_of(request, "stream")
    fields = common_fields(request, form, default_limit=None)
    if request.top_logprobs and not request.logprobs:
        raise refused("top_logprobs", "is allowed only with 'logprobs': true")
    return Ask(
        prompts=tuple(
            ChatPrompt([message.for_template() for message in conversation])
            for conversation in conversations
        ),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        tools=tool_use(
            request.tools or [],
            request.tool_choice,
            is_parallel=request.parallel_tool_calls is not False,
        ),
        **fields,
    )


_ENDPOINT = Endpoint(
    path="/v1/chat/completions",
    name="chat_completions",
    tag="chat",
    description=(
        "Answer a conversation.\n\n"
        "Without `model` in the body, the answer is streamed unless `stream` is false."
    ),
    bodies=(ChatRequest,),
    example=EXAMPLE,
    answer=ChatCompletion,
    streams=True,
)
CHAT = Dialect(_ENDPOINT, "chatcmpl", _read, ChatWriter)
MANY_CHATS = Dialect(
    replace(
        _ENDPOINT,
        path="/v2/chat/completions",
        name="many_chat_completions",
        description=(
            "Answer one conversation or many at once.\n\n"
            "`messages` may be a list of conversations. Each becomes a choice; they run side by"
            " side, and in a stream their chunks interleave, told apart by `index`."
        ),
        bodies=(ChatRequest, ManyChatsRequest),
    ),
    "chatcmpl",
    _read_many,
    ChatWriter,
)
