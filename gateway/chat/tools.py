"""How models are told of tools, and how they call them.

One way of writing calls is used with all models, that of Hermes and Qwen: JSON between
``<tool_call>`` and ``</tool_call>``. Where a model's own template writes that, it also describes
the tools; else they are described here, in the system message, and what was called and answered
is told in messages that any template takes. What a model writes is held to the form by a grammar,
so that reading it is a matter of finding places in a text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.chat.formats import ChatFormat
from gateway.chat.messages import ChatMessage

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL_BEGIN = OPEN + '\n{"name": '
CALL_ARGUMENTS = ', "arguments": '
CALL_END = "}\n" + CLOSE
"""A call is `CALL_BEGIN`, its name as JSON, `CALL_ARGUMENTS`, an object as JSON, `CALL_END`."""

_RESULT_OPEN, _RESULT_CLOSE = "<tool_response>", "</tool_response>"


def describes_tools(chat_format: ChatFormat) -> bool:
    """Whether a template has a place for tools, and writes calls in the way that is used here."""
    return "tools" in chat_format.source and OPEN in chat_format.source


def call_text(name: str, arguments: Any) -> str:
    """A call, as a model writes it; arguments that are text are taken as they are."""
    given = arguments if isinstance(arguments, str) else _json(arguments)
    return f"{CALL_BEGIN}{_json(name)}{CALL_ARGUMENTS}{given}{CALL_END}"


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What tells a model of the tools that it may call, each as OpenAI's API has it."""
    described = "\n".join(_json(tool) for tool in tools)
    return (
        "You can call functions. These are their signatures, one JSON object to a line:\n"
        f"<tools>\n{described}\n</tools>\n"
        "To call one, write its name and its arguments as JSON, like this:\n"
        f'{OPEN}\n{{"name": "the function", "arguments": {{"an argument": "its value"}}}}\n{CLOSE}'
    )


def as_plain(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """A conversation for a template that knows no tools: calls and their results become text."""
    plain: list[ChatMessage] = []
    is_result = False
    for message in messages:
        if message["role"] == "tool":
            text = f"{_RESULT_OPEN}\n{message['content']}\n{_RESULT_CLOSE}"
            if is_result:
                plain[-1]["content"] += f"\n{text}"
            else:
                plain.append(ChatMessage(role="user", content=text))
            is_result = True
            continue
        is_result = False
        calls = message.get("tool_calls", ())
        pieces = [message["content"]] if message["content"] or not calls else []
        functions = [call["function"] for call in calls]
        pieces += [call_text(called["name"], called["arguments"]) for called in functions]
        kept = ChatMessage(role=message["role"], content="\n".join(pieces))
        if "name" in message:
            kept["name"] = message["name"]
        plain.append(kept)
    return plain


def with_instructions(
    messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]], role: str
) -> list[ChatMessage]:
    """The conversation with the tools told of in its first message.

    Args:
        messages: the conversation.
        tools: what it may use.
        role: of the message that tells of them. Where the first is another's, one is put in front.
    """
    told = instructions(tools)
    first = messages[0]
    if first["role"] != role:
        return [ChatMessage(role=role, content=told), *messages]
    joined = f"{first['content']}\n\n{told}" if first["content"] else told
    return [{**first, "content": joined}, *messages[1:]]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
