"""From a conversation, and the tools that it may use, to the prompt of its next message."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.chat.formats import ChatFormat
from gateway.chat.messages import ChatMessage
from gateway.chat.rendering import render
from gateway.chat.tools import OPEN, as_plain, describes_tools, with_instructions
from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.messages import ModelInfo


def prompt_of(
    chat_format: ChatFormat,
    model: ModelInfo,
    messages: Sequence[ChatMessage],
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, ...]:
    """The prompt that asks ``model`` for the next message, told of ``tools`` in whatever way.

    A last message of the assistant is not answered, but gone on with; one without text is only the
    place for the answer.

    Raises:
        ApiError: see `gateway.chat.rendering.render`.
    """
    last = messages[-1]
    continues = last["role"] == "assistant" and not last.get("tool_calls")
    if continues and not last["content"] and len(messages) > 1:
        messages, continues = messages[:-1], False
    if describes_tools(chat_format):
        return render(chat_format, model, messages, tools, continues=continues)
    plain = as_plain(messages)
    if not tools:
        return render(chat_format, model, plain, continues=continues)
    try:
        told = with_instructions(plain, tools, "system")
        prompt = render(chat_format, model, told, continues=continues)
    except ApiError as error:
        # Some formats know no system message; who sent one is told so.
        if error.code is not ErrorCode.INVALID_VALUE or plain[0]["role"] == "system":
            raise
        prompt = ()
    if any(OPEN in part for part in prompt):
        return prompt
    # And some pass over it without a word.
    told = with_instructions(plain, tools, "user")
    return render(chat_format, model, told, continues=continues)
