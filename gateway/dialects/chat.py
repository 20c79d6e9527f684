"""``/v1/chat/completions`` and ``/v2/chat/completions``: conversations in, answers out."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from gateway.answer.pieces import (
    Begun,
    CallArguments,
    CallBegun,
    Choice,
    Ended,
    Piece,
    Text,
    Usage,
)
from gateway.ask import Ask
from gateway.dialects import Dialect
from gateway.dialects.conversation import (
    Conversation,
    Conversations,
    ToolChoice,
    Tools,
    tool_use,
)
from gateway.dialects.fields import MOST_LOGPROBS
from gateway.dialects.openai_answer import Json, OpenAiWriter, chat_logprobs
from gateway.dialects.openai_request import (
    GenerationRequest,
    common_fields,
    form_of,
    read_request,
)
from gateway.errors import refused
from shared.messages import Chat, Prepare
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


class ChatWriter(OpenAiWriter):
    """Writes `CreateChatCompletionStreamResponse` and `CreateChatCompletionResponse` of OpenAI."""

    chunk_kind = "chat.completion.chunk"

    def beginning(self, index: int) -> bytes:
        if index in self._begun:
            return b""
        self._begun.add(index)
        return self.chunk(_delta(index, {"role": "assistant", "content": ""}))

    def choice(self, index: int, piece: Piece) -> Json | None:
        reason = None
        match piece:
            case Begun():
                return None
            case Text():
                delta: Json = {"content": piece.text}
            case CallBegun():
                delta = {"tool_calls": [{"index": piece.place, **_call(piece.name, "")}]}
            case CallArguments():
                function = {"arguments": piece.text}
                delta = {"tool_calls": [{"index": piece.place, "function": function}]}
            case Ended():
                delta, reason = {}, piece.reason
            case _:
                assert_never(piece)
        is_silent = not self.tells_logprobs or piece.logprobs is None
        if is_silent or (reason and not piece.logprobs):
            return _delta(index, delta, reason)
        return _delta(index, delta, reason, chat_logprobs(piece.logprobs or ()))

    def whole(self, usage: Usage) -> Json:
        choices = [self._whole_choice(*numbered) for numbered in enumerate(self.choices)]
        return self.object("chat.completion", choices, usage)

    def _whole_choice(self, index: int, choice: Choice) -> Json:
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [_call(call.name, call.arguments) for call in choice.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(choice.logprobs) if self.tells_logprobs else None,
            "finish_reason": choice.finish_reason,
        }


def _delta(
    index: int, delta: Json, reason: str | None = None, logprobs: Json | None = None
) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _call(name: str, arguments: str) -> Json:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


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
    fields = common_fields(request, form_of(request, "stream"), default_limit=None)
    if request.top_logprobs and not request.logprobs:
        raise refused("top_logprobs", "is allowed only with 'logprobs': true")
    tools = tool_use(
        request.tools or [],
        request.tool_choice,
        is_parallel=request.parallel_tool_calls is not False,
    )
    functions = tuple([function.shown for function in tools.functions])
    chats = [
        Chat(tuple([message.for_template() for message in conversation]), functions)
        for conversation in conversations
    ]
    return Ask(
        prompts=tuple([Prepare("", chat, "messages") for chat in chats]),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        tools=tools,
        **fields,
    )


CHAT = Dialect(
    path="/v1/chat/completions",
    tag="chat",
    description=(
        "Answer a conversation.\n\n"
        "Without `model` in the body, the answer is streamed unless `stream` is false."
    ),
    bodies=(ChatRequest,),
    example={"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 100},
    answer="OpenAI's `CreateChatCompletionResponse`.",
    streams=True,
    id_prefix="chatcmpl",
    read=_read,
    writer=ChatWriter,
)
MANY_CHATS = replace(
    CHAT,
    path="/v2/chat/completions",
    description=(
        "Answer one conversation or many at once.\n\n"
        "`messages` may be a list of conversations. Each becomes a choice; they run side by"
        " side, and in a stream their chunks interleave, told apart by `index`."
    ),
    bodies=(ChatRequest, ManyChatsRequest),
    read=_read_many,
)
