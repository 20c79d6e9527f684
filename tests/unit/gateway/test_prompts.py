"""From bodies to prompts, through the whole application."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.app import create_app
from gateway.chat.formats import FORMATS
from shared.messages import Failed, ModelInfo
from tests.unit.gateway.fakes import CONFIG, MODEL, READY, ScriptedPool, error, post, request

USER = {"role": "user", "content": "Hi"}
CHATML = ModelInfo(
    "starcoder",
    n_ctx=100,
    n_vocab=300,
    max_token_bytes=20,
    special_tokens=("<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    fim_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


def test_a_chat_format_by_name_makes_the_prompt_and_ends_the_answer() -> None:
    config = replace(CONFIG, chat_template=FORMATS["chatml"].as_format("CHAT_TEMPLATE"))
    pool = ScriptedPool(status=replace(READY, model=CHATML))
    told = {"role": "user", "content": "x<|im_end|>"}
    post(pool, "/v1/chat/completions", {"messages": [told], "stop": "y"}, config=config)
    (generation,) = pool.requests
    assert generation.prompt == (
        *("", "<|im_start|>", "user\nx<|im_end|>", "<|im_end|>", "\n"),
        *("<|im_start|>", "assistant\n"),
    )
    assert generation.stop == ("y",)
    (entry,) = request(pool, "GET", "/v1/models", config).json()["data"]
    assert entry["chat_template"] == "chatml"


def test_what_ends_a_turn_is_a_stop_string_where_it_is_no_token() -> None:
    config = replace(CONFIG, chat_template=FORMATS["chatml"].as_format("CHAT_TEMPLATE"))
    pool = ScriptedPool()
    post(pool, "/v1/chat/completions", {"messages": [USER], "stop": "y"}, config=config)
    assert pool.requests[0].stop == ("y", "<|im_end|>")


def test_a_broken_template_is_an_error_that_is_not_worth_trying_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = replace(CHATML, chat_template="{% for %}")
    pool = ScriptedPool(status=replace(READY, model=model))
    for _ in range(2):
        response = post(pool, "/v1/chat/completions", {"messages": [USER]})
        assert error(response) == (500, "internal_error", None)
        assert "template is broken" in response.text
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "does not compile" in record.getMessage() and record.exc_info is None
    assert pool.requests == []


def test_what_a_format_has_no_place_for_is_a_bad_request() -> None:
    config = replace(CONFIG, chat_template=FORMATS["llama-2"].as_format("CHAT_TEMPLATE"))
    system = {"role": "system", "content": "x"}
    pool = ScriptedPool()
    response = post(
        pool, "/v1/chat/completions", {"messages": [system, system, USER]}, config=config
    )
    assert error(response) == (400, "invalid_value", "messages")
    assert pool.requests == []


def test_a_completion_takes_special_tokens_and_a_suffix() -> None:
    pool = ScriptedPool(status=replace(READY, model=CHATML))
    post(pool, "/v1/completions", {"prompt": ["a<|im_end|>", "b"], "suffix": "c"})
    post(pool, "/v1/completions", {"prompt": "a<|im_end|>b", "suffix": None})
    filled = [("", "<fim_prefix>", text, "<fim_suffix>", "c", "<fim_middle>", "")
              for text in ("a<|im_end|>", "b")]  # fmt: skip
    assert [g.prompt for g in pool.requests] == [*filled, ("a", "<|im_end|>", "b")]
    assert {g.stop for g in pool.requests} == {()}
    too_long = post(pool, "/v1/completions", {"prompt": "a", "suffix": "b" * 2001})
    assert error(too_long) == (400, "context_length_exceeded", "prompt")
    refused = post(ScriptedPool(), "/v1/completions", {"prompt": "a", "suffix": "b"})
    assert error(refused) == (400, "unsupported_parameter", "suffix")


def test_a_template_that_cannot_render_is_reported_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = replace(CHATML, chat_template="{{ 'x' * 10 ** 9 }}")

    async def live() -> None:
        app = create_app(CONFIG, ScriptedPool(status=replace(READY, model=model)))
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(live(), 5))
    assert "'own' (the model's file) is not usable: it does too much work" in caplog.text


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
NATIVE = "{{ tools | tojson }}\n{% for m in messages %}{{ m | tojson }}\n{% endfor %}<tool_call>"


def shown(body: dict[str, Any]) -> list[Any]:
    """What a template sees of a chat: its tools, then its messages."""
    pool = ScriptedPool(status=replace(READY, model=replace(MODEL, chat_template=NATIVE)))
    post(pool, "/v1/chat/completions", body)
    (generation,) = pool.requests
    *lines, _ = "".join(generation.prompt).splitlines()
    return [json.loads(line) for line in lines]


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
    assert shown({**body, "tool_choice": "none"}) == [None, USER]


def test_every_conversation_is_told_of_tools() -> None:
    pool = ScriptedPool()
    tools = [{"type": "function", "function": {"name": "lookup"}}]
    body = {"messages": [[USER], [USER]], "tools": tools, "tool_choice": "required"}
    post(pool, "/v2/chat/completions", body)
    assert len(pool.requests) == 2
    for generation in pool.requests:
        assert "lookup" in "".join(generation.prompt)
        assert generation.grammar is not None and "lookup" in generation.grammar.source


def test_a_template_may_tell_twice_of_what_is_gone_on_with() -> None:
    model = replace(MODEL, chat_template="{{ messages[-1].content }}|{{ messages[-1].content }}")
    pool = ScriptedPool(status=replace(READY, model=model))
    answer = post(
        pool, "/v1/chat/completions", {"messages": [USER, {"role": "assistant", "content": "So "}]}
    )
    assert answer.status_code == 200
    assert pool.requests[0].prompt == ("So |So ",)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions",
         {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ("/v1/chat/completions",
         {"messages": [USER], "response_format": {"type": "json_object"}}, "response_format"),
        ("/v1/completions", {"prompt": "x", "guided_regex": "x"}, "guided_regex"),
        ("/v1/completions", {"prompt": "x", "guided_json": {}, "n": 2}, "guided_json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_fails_is_called_what_it_is_in_the_request(
    path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    pool = ScriptedPool(
        lambda request: [
            Failed(request.request_id, "invalid_value", "cannot be used: why", "grammar")
        ]
    )
    answer = post(pool, path, {**body, "stream": stream})
    assert error(answer) == (400, "invalid_value", param)
    assert answer.json()["error"]["message"] == f"'{param}' cannot be used: why"
