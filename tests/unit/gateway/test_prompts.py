"""From bodies to what preparers are asked, through the whole application."""

from typing import Any

import pytest

from shared.errors import ErrorCode
from shared.messages import Chat, Failed, Prepare, Prepared, Question
from tests.unit.gateway.fakes import ScriptedPool, bytewise, error, post

USER = {"role": "user", "content": "Hi"}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}


def shown(body: dict[str, Any]) -> list[Any]:
    """What a template sees of a chat: its tools, then its messages."""
    pool = ScriptedPool()
    post(pool, "/v1/chat/completions", body)
    (question,) = pool.questions
    assert isinstance(question, Prepare) and isinstance(question.prompt, Chat)
    return [list(question.prompt.tools), *question.prompt.messages]


def test_templates_see_calls_and_results() -> None:
    broken = {"function": {"name": "g", "arguments": '{"a'}}
    messages = [
        {**USER, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, broken]},
        {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "c1"},
        {"role": "assistant", "refusal": "No."},
        {"role": "developer", "content": "d"},
    ]
    tools = [
        {"type": "function", "function": {"name": "f", "description": "d", "strict": True}},
        {"type": "function", "function": {"name": "g", "parameters": {"properties": {}}}},
    ]
    told, *seen = shown({"messages": messages, "tools": tools})
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert told == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": empty}},
        {"type": "function",
         "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
    ]  # fmt: skip
    assert seen == [
        {**USER, "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"a": [1]}}},
            {"type": "function", "function": {"name": "g", "arguments": '{"a'}},
        ]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
        {"role": "assistant", "content": "No."},
        {"role": "system", "content": "d"},
    ]  # fmt: skip


def test_a_model_is_told_of_the_tools_that_it_may_use() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    body = {"messages": [USER], "tools": tools}
    for choice, names in (
        ("auto", ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, ["g"]),
    ):
        told, _ = shown({**body, "tool_choice": choice})
        assert [tool["function"]["name"] for tool in told] == names
    assert shown({**body, "tool_choice": "none"}) == [[], USER]


GRAMMARS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions",
     {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ("/v1/chat/completions",
     {"messages": [USER], "response_format": {"type": "json_object"}}, "response_format"),
    ("/v1/completions", {"prompt": "x", "guided_regex": "x"}, "guided_regex"),
    ("/v1/completions", {"prompt": ["x", "y"], "guided_json": {}, "n": 2}, "guided_json"),
    ("/v1/completions", {"prompt": [97], "guided_choice": ["a"]}, "guided_choice"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param"), GRAMMARS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_is_tried_once_and_called_what_it_is_in_the_request(
    path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    tried = []

    def oracle(question: Question) -> Prepared | Failed:
        if isinstance(question, Prepare) and question.grammar is not None:
            tried.append(question.grammar)
            code = ErrorCode.INVALID_VALUE.value
            return Failed(question.request_id, code, "cannot be used: why", "grammar")
        return bytewise(question)

    pool = ScriptedPool(oracle=oracle)
    answer = post(pool, path, {**body, "stream": stream})
    assert error(answer) == (400, "invalid_value", param)
    assert answer.json()["error"]["message"] == f"'{param}' cannot be used: why"
    assert len(tried) == 1 and pool.requests == []
