"""How models are told of tools, and of what was called and answered."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tool_calls import CALL_ARGUMENTS, CALL_BEGIN, CALL_END, CLOSE, OPEN
from worker.prompt.formats import FORMATS
from worker.prompt.tools import (
    call_text,
    describes_tools,
    instructions,
    with_instructions,
)

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Wetter für\neinen Ort."}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]


def said(role: str, content: str = "", **more: Any) -> Any:
    return {"role": role, "content": content, **more}


def called(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_call_is_what_the_grammar_asks_for() -> None:
    text = call_text("f", {"a": ["ü", 1]})
    assert text == '<tool_call>\n{"name": "f", "arguments": {"a":["ü",1]}}\n</tool_call>'
    assert text.startswith(CALL_BEGIN) and CALL_ARGUMENTS in text and text.endswith(CALL_END)


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_a_call_is_json_between_marks(arguments: dict[str, Any]) -> None:
    begin, text, end = call_text("f", arguments).split("\n")
    assert (begin, end) == (OPEN, CLOSE)
    assert json.loads(text) == {"name": "f", "arguments": arguments}


def test_arguments_that_are_no_json_are_told_as_they_are() -> None:
    assert call_text("f", '{"a') == '<tool_call>\n{"name": "f", "arguments": {"a}\n</tool_call>'


def test_instructions_have_each_tool_on_a_line_and_show_the_form() -> None:
    told = instructions(TOOLS)
    listed = told.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [json.loads(line) for line in listed.splitlines()] == TOOLS
    assert call_text("the function", '{"an argument": "its value"}') in told


SYSTEM, USER = said("system", "Be brief."), said("user", "Hi")


@pytest.mark.parametrize(
    ("messages", "role", "first", "n"),
    [
        ([SYSTEM, USER], "system", "Be brief.\n\n", 2),
        ([said("system"), USER], "system", "", 2),
        ([USER], "system", "", 2),
        ([USER], "user", "Hi\n\n", 1),
        ([said("assistant", "a"), USER], "user", "", 3),
    ],
)
def test_who_tells_of_tools(messages: list[Any], role: str, first: str, n: int) -> None:
    told = with_instructions(messages, TOOLS, role)
    assert told[0] == said(role, f"{first}{instructions(TOOLS)}")
    assert len(told) == n
    assert told[1:] == messages[len(messages) - n + 1 :]


@pytest.mark.parametrize(
    ("source", "describes"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}<tool_call>", True),
        ("{% if tools %}{{ tools | tojson }}{% endif %}[TOOL_CALLS]", False),
        ("{{ '<tool_call>' }}", False),
        ("", False),
        *((known.as_format("").source, False) for known in FORMATS.values()),
    ],
)
def test_which_templates_tell_of_tools_themselves(source: str, describes: bool) -> None:
    assert describes_tools(source) is describes
