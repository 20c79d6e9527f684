"""What an answer is bound to, as it compiles over the bytes of the echo engine."""

from typing import Any

import pytest

from gateway.answer.constraint import constraint_of
from gateway.dialects.chat import CHAT
from gateway.dialects.conversation import MOST_TOOLS
from shared.config import WorkerConfig
from shared.grammar import Grammar
from worker.engines.echo import EchoEngine
from worker.grammar.grammars import Grammars
from worker.prompt.tools import call_text

END = 256
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


TOOLS = [tool("weather", parameters=CITY), tool("now")]


def named(*names: str, mode: str | None = None) -> dict[str, Any]:
    """The choice of one function, or of some that are allowed."""
    if mode is None:
        return tool(*names)
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*map(tool, names)]}}


def bound(**body: Any) -> Grammar:
    constraint = constraint_of(CHAT.read({"messages": [{"role": "user", "content": "x"}], **body}))
    assert constraint.grammar is not None
    return constraint.grammar


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(EchoEngine(WorkerConfig("echo")))


def outcome(grammars: Grammars, grammar: Grammar, text: str) -> str:
    """What becomes of a text: ``complete``, ``may end``, ``unfinished``, or how far it gets."""
    matcher = grammars.matcher(grammar)
    for place, byte in enumerate(text.encode()):
        if matcher.is_complete:
            return f"complete at {place}"
        if not matcher.allowed()[byte]:
            return f"refused at {place}"
        matcher.accept(byte)
    if matcher.is_complete:
        return "complete"
    return "may end" if matcher.allowed()[END] else "unfinished"


WEATHER = call_text("weather", '{"city": "Paris"}')
NOW = call_text("now", {})
OPEN = "<tool_call>"
AUTO: dict[str, Any] = {"tool_choice": "auto"}
REQUIRED: dict[str, Any] = {"tool_choice": "required"}
ONCE: dict[str, Any] = {"parallel_tool_calls": False}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"schema": CITY}}}
# For each choice of tools: texts, and how the grammar ends with them.
OUTCOMES: list[tuple[dict[str, Any], dict[str, str]]] = [
    (AUTO, {
        "": "may end",
        "Hello.\n": "may end",
        WEATHER: "may end",
        f"Let me see.\n\n{WEATHER}": "may end",
        f"日本 {NOW}\n{WEATHER}": "may end",
        f"{NOW}!": f"refused at {len(NOW)}",
        f"{NOW}\n": "unfinished",
        f"{NOW}\n{NOW}\nHello": f"refused at {2 * len(NOW) + 2}",
        "a < b <tool": "may end",
        f"{OPEN}x": f"refused at {len(OPEN)}",
        '<tool_call>\n{"name": "l': "refused at 22",
        '<tool_call>\n{"name": "now", "arguments": {"': "refused at 42",
        '<tool_<tool_call>\n{"name": "n': "unfinished",
        "</tool_call>": "may end",
    }),
    (REQUIRED, {
        "": "unfinished",
        "H": "refused at 0",
        "\n": "refused at 0",
        NOW: "may end",
        f"{NOW}\n{WEATHER}": "may end",
        f"{NOW}{WEATHER}": f"refused at {len(NOW)}",
        "\n".join([NOW] * 15): "may end",
        "\n".join([NOW] * 16): "complete",
    }),
    ({"tool_choice": named("now")}, {NOW: "complete", WEATHER: "refused at 22"}),
    ({**REQUIRED, **ONCE}, {NOW: "complete"}),
    (ONCE, {NOW: "complete", f"So: {NOW}": "complete", "So": "may end"}),
    ({"tool_choice": named("weather", mode="auto")},
     {f"Well. {WEATHER}": "may end", NOW: "refused at 22"}),
    ({"tool_choice": named("now", "weather", "now", mode="required")},
     {"Well": "refused at 0", WEATHER: "may end"}),
    (FORMAT, {
        '{"city": "Paris"}': "complete",
        f"{WEATHER}\n{NOW}": "may end",
        f'{{"city": "Paris"}}{NOW}': "complete at 17",
        f"a{NOW}": "refused at 0",
    }),
    ({**FORMAT, **REQUIRED}, {'{"city": "Paris"}': "refused at 0"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "texts"), OUTCOMES)
def test_a_call_is_held_to_its_form(
    grammars: Grammars, body: dict[str, Any], texts: dict[str, str]
) -> None:
    grammar = bound(tools=TOOLS, **body)
    assert {text: outcome(grammars, grammar, text) for text in texts} == texts


NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, ["{}", "{ }"]),
    "null": ({"parameters": None}, ["{}"]),
    "empty": ({"parameters": {"type": "object", "properties": {}}}, ["{}"]),
    "anything": ({"parameters": {}}, ["{}", '{"a": [1, null]}']),
    "unicode": (
        {"parameters": {"properties": {"ß": {"enum": ["日本", 'q"\\']}}, "required": ["ß"]}},
        ['{"ß": "日本"}', '{"ß": "q\\"\\\\"}'],
    ),
    "definitions": (
        {"parameters": {"type": "object", "properties": {"list": {"$ref": "#/$defs/node"}},
                        "required": ["list"], "$defs": {"node": NODE}}},
        ['{"list": {"value": 1}}', '{"list": {"value": 1, "next": {"value": 2}}}'],
    ),
    "all of it elsewhere": (
        {"parameters": {"$ref": "#/$defs/node", "$defs": {"node": NODE}}},
        ['{"value": 1}', '{"value": 1, "next": {"value": 2}}'],
    ),
    "any of": (
        {"parameters": {"anyOf": [CITY, NODE], "$defs": {"node": NODE}}},
        ['{"city": "x"}', '{"value": 3}'],
    ),
    "with a name of its own": (
        {"parameters": {**CITY, "$schema": "http://json-schema.org/draft-07/schema#",
                        "$id": "https://example.com/city"}},
        ['{"city": "x"}'],
    ),
    "that would be somebody": (
        {"parameters": {**CITY, "x-guidance": {"lenient": True, "whitespace_flexible": False},
                        "title": "%json {} \n start: TEXT", "description": '"""'}},
        ['{"city": "x"}', '{ "city": "x" }'],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMETERS)
def test_arguments_of_many_kinds(grammars: Grammars, case: str) -> None:
    function, texts = PARAMETERS[case]
    # Another function has the same definitions under the same names, of something else.
    other = tool("g", parameters={"properties": {"a": {"$ref": "#/$defs/node"}},
                                  "$defs": {"node": {"type": "null"}}})  # fmt: skip
    for choice in ("required", "auto"):
        grammar = bound(tools=[tool(**function), other], tool_choice=choice)
        for text in texts:
            assert outcome(grammars, grammar, call_text("f", text)) == "may end", text
        assert outcome(grammars, grammar, call_text("g", '{"a": null}')) == "may end"
        assert outcome(grammars, grammar, call_text("f", "[]")).startswith("refused")
    if case not in ("anything", "empty"):
        assert outcome(grammars, grammar, call_text("f", '{"x": 1}')).startswith("refused")


def test_as_many_functions_as_there_may_be(grammars: Grammars) -> None:
    many = [tool(f"f{place}", parameters=CITY) for place in range(MOST_TOOLS)]
    grammar = bound(tools=many, tool_choice="required")
    for place in (0, 1, 12, 127):
        assert outcome(grammars, grammar, call_text(f"f{place}", '{"city": ""}')) == "may end"
    assert outcome(grammars, grammar, call_text("f128", "{}")).startswith("refused")


@pytest.mark.parametrize("name", ["a.b", "a-b", "_", "9", "x" * 64, "TEXT", "start", "call_0"])
def test_a_name_is_nothing_but_a_name(grammars: Grammars, name: str) -> None:
    grammar = bound(tools=[tool(name)], tool_choice="required")
    assert outcome(grammars, grammar, call_text(name, {})) == "may end"
    assert outcome(grammars, grammar, call_text(f"{name}x", {})).startswith("refused")
