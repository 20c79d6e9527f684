"""From a conversation to the prompt of its next message. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.chat.conversation import prompt_of
from gateway.chat.formats import ChatFormat
from gateway.chat.messages import CalledTool, ChatMessage
from gateway.openai.admission import check_length, check_message_count
from gateway.openai.conversation import Message
from gateway.openai.requests import ChatRequest, ManyChatsRequest
from gateway.openai.tool_choice import ToolUse
from gateway.openai.tools import FunctionDefinition
from gateway.openai.translate import Prompt
from shared.messages import ModelInfo


def chat_prompts(
    request: ChatRequest | ManyChatsRequest, chat_format: ChatFormat, model: ModelInfo, use: ToolUse
) -> list[Prompt]:
    """The prompts of a request's conversations.

    Args:
        request: the conversations.
        chat_format: what becomes of them.
        model: which is to go on with them.
        use: the tools that it is told of.

    Raises:
        ApiError: the format does not take one of them, or it is too long.
    """
    tools = [_described(function) for function in use.tools]
    prompts = []
    for conversation in request.conversations:
        check_message_count(len(conversation), model)
        prompts.append(prompt_of(chat_format, model, template_messages(conversation), tools))
        check_length(prompts[-1], "messages", model)
    return prompts


def template_messages(conversation: Sequence[Message]) -> list[ChatMessage]:
    """A conversation as chat templates know it, which have never heard of ``developer``."""
    return [_template_message(message) for message in conversation]


def _template_message(message: Message) -> ChatMessage:
    role = "system" if message.role == "developer" else message.role
    seen = ChatMessage(role=role, content=message.text)
    if message.name is not None:
        seen["name"] = message.name
    if message.tool_call_id is not None:
        seen["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        calls: list[CalledTool] = []
        for call in message.tool_calls:
            called: CalledTool = {
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.parsed},
            }
            if call.id is not None:
                called["id"] = call.id
            calls.append(called)
        seen["tool_calls"] = calls
    return seen


def _described(function: FunctionDefinition) -> Mapping[str, Any]:
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = function.arguments
    return {"type": "function", "function": described}
