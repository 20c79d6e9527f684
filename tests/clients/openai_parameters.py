"""What may be asked for, by OpenAI's client; the same whichever version of it asks."""

import json
from typing import Any

from tests.clients.openai_python import ASK, FORCED, LONG, client
from tests.clients.subjects import (
    WEATHER,
    Trip,
    is_weather,
)


def check_streamed_calls_have_places() -> None:
    """Of several calls, each has its index, its id, and arguments that are whole."""
    ask = FORCED | {"tool_choice": "required"}
    calls: dict[int, list[Any]] = {}
    with client.chat.completions.create(**ask, stream=True) as stream:
        for chunk in stream:
            for piece in chunk.choices[0].delta.tool_calls or []:
                calls.setdefault(piece.index, []).append(piece)
    assert list(calls) == list(range(len(calls)))
    for pieces in calls.values():
        assert [bool(piece.id) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        arguments = json.loads("".join(piece.function.arguments or "" for piece in pieces))
        assert pieces[0].function.name == "get_time" or is_weather(arguments)


def check_the_results_of_several_calls() -> None:
    names = ("get_weather", "get_time")
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for name in names
    ]
    results = [
        {"role": "tool", "tool_call_id": f"call_{name}", "content": content}
        for name, content in zip(names, ("21", [{"type": "text", "text": "noon"}]), strict=True)
    ]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    messages = [*WEATHER, asked, *results]
    answer = client.chat.completions.create(**ASK | {"messages": messages})
    assert answer.choices[0].message.content


def check_one_call_at_a_time() -> None:
    ask = FORCED | {"tool_choice": "required", "parallel_tool_calls": False}
    choice = client.chat.completions.create(**ask).choices[0]
    assert len(choice.message.tool_calls) == 1


def check_several_choices_with_tools() -> None:
    choices = client.chat.completions.create(**FORCED, n=2).choices
    calls = [choice.message.tool_calls[0] for choice in choices]
    assert all(is_weather(call.function.arguments) for call in calls)
    assert calls[0].id != calls[1].id


def check_guided_decoding() -> None:
    """What clients of other local servers send in ``extra_body``."""
    wanted: dict[str, tuple[Any, Any]] = {
        "guided_choice": (["London", "Madrid"], lambda text: text in ("London", "Madrid")),
        "guided_regex": (r"[A-C]{3}-\d{2}", lambda text: text[3] == "-" and len(text) == 6),
        "guided_json": (Trip.model_json_schema(), Trip.model_validate_json),
        "guided_grammar": ('start: ("yes" | "no") "!"', lambda text: text in ("yes!", "no!")),
    }
    for name, (value, is_right) in wanted.items():
        ask = ASK | {"max_tokens": LONG, "extra_body": {name: value}}
        choice = client.chat.completions.create(**ask).choices[0]
        assert choice.finish_reason == "stop" and is_right(choice.message.content), name
