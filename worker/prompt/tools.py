"""What a model is told of tools where its own template does not describe them.

Where a model's own template writes calls in the way of `shared.tool_calls`, it also describes the
tools; else they are described here, in the system message, and what was called and answered is told
in messages that any template takes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from shared.tool_calls import CALL_ARGUMENTS, CALL_BEGIN, CALL_END, CLOSE, OPEN

Message = Mapping[str, Any]

_RESULT_OPEN, _RESULT_CLOSE = "<tool_response>", "</tool_response>"


def describes_tools(source: str) -> bool:
    """Whether a template has a place for tools, and writes calls in the way that is used here."""
    return "tools" in source and OPEN in source


def call_text(name: str, arguments: Any) -> str:
    """A call, as a model writes it; arguments that are text are taken as they are."""
    json = arguments if isinstance(arguments, str) else _json(arguments)
    return f"{CALL_BEGIN}{_json(name)}{CALL_ARGUMENTS}{json}{CALL_END}"


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What tells a model of the tools that it may call, each as OpenAI's API has it."""
    described = "\n".join(_json(tool) for tool in tools)
    return (
        "You can call functions. These are their signatures, one JSON object to a line:\n"
        f"<tools>\n{described}\n</tools>\n"
        "To call one, write its name and its arguments as JSON, like this:\n"
        f'{OPEN}\n{{"name": "the function", "arguments": {{"an argument": "its value"}}}}\n{CLOSE}'
    )


def as_plain(messages: Iterable[Message]) -> list[Message]:
    """A conversation for a template that knows no tools: calls and their results become text."""
    plain: list[dict[str, Any]] = []
    is_result = False
    for message in messages:
        if message["role"] == "tool":
            text = f"{_RESULT_OPEN}\n{message['content']}\n{_RESULT_CLOSE}"
            if is_result:
                plain[-1]["content"] += f"\n{text}"
            else:
                plain.append({"role": "user", "content": text})
            is_result = True
            continue
        is_result = False
        calls = [call["function"] for call in message.get("tool_calls", ())]
        pieces = [message["content"]] if message["content"] or not calls else []
        pieces += [call_text(call["name"], call["arguments"]) for call in calls]
        kept = {"role": message["role"], "content": "\n".join(pieces)}
        if "name" in message:
            kept["name"] = message["name"]
        plain.append(kept)
    return list(plain)


def with_instructions(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], role: str
) -> list[Message]:
    """The conversation with the tools described in its first message.

    Where that is of another role than this one, a message is put in front.
    """
    text = instructions(tools)
    first = messages[0]
    if first["role"] != role:
        return [{"role": role, "content": text}, *messages]
    joined = f"{first['content']}\n\n{text}" if first["content"] else text
    return [{**first, "content": joined}, *messages[1:]]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
