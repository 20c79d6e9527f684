"""What bodies may hold, and what a request becomes."""

from typing import Any

import openai
import pytest

from gateway.answer.constraint import constraint_of
from gateway.ask import Ask, IdsPrompt, Limit
from gateway.dialects.chat import CHAT, MANY_CHATS, ChatRequest
from gateway.dialects.completions import COMPLETIONS, CompletionRequest
from gateway.dialects.openai_request import (
    OTHER_NAMES,
    UNSUPPORTED_UNLESS,
    GenerationRequest,
)
from gateway.errors import ApiError
from scripts.parameter_table import INDIFFERENT
from shared.messages import Text
from shared.sampling import SamplingParams

USER = {"role": "user", "content": "Hi"}
OF_A_LIST = {"name": "f", "parameters": {"type": "array"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def refusal(body: dict[str, Any]) -> tuple[str, str | None]:
    dialect = MANY_CHATS if "messages" in body else COMPLETIONS
    with pytest.raises(ApiError) as caught:
        constraint_of(dialect.read(body))
    assert caught.value.status == 400
    assert caught.value.message.endswith(".")
    return caught.value.code.value, caught.value.param


def test_a_wrong_item_is_named_by_its_place() -> None:
    assert refusal({"prompt": ["x", None]}) == ("invalid_value", "prompt[1]")
    assert refusal({"prompt": "x", "stop": ["a", ""]}) == ("invalid_value", "stop[1]")
    assert refusal({"prompt": "x", "stop": ["a" * 257]}) == ("invalid_value", "stop[0]")
    options = {"include_usage": "yes"}
    body = {"prompt": "x", "stream_options": options}
    assert refusal(body) == ("invalid_value", "stream_options.include_usage")


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("x", ["x"]),
        (["x", "y"], ["x", "y"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["x", [3]], ["x", [3]]),
    ],
)
def test_prompts_are_text_or_token_ids(prompt: Any, prompts: Any) -> None:
    found = COMPLETIONS.read({"prompt": prompt}).prompts
    texts = [each.ids if isinstance(each, IdsPrompt) else each.prompt for each in found]
    assert texts == [Text(each) if isinstance(each, str) else each for each in prompts]


@pytest.mark.parametrize("wrong", [True, 1.5, [], [1, "x"], [True], [[1]], {}])
def test_a_prompt_of_neither_is_refused(wrong: Any) -> None:
    assert refusal({"prompt": ["x", wrong]}) == ("invalid_value", "prompt[1]")


def test_null_is_the_default_for_every_optional_field() -> None:
    names = [*GenerationRequest.model_fields, *UNSUPPORTED_UNLESS, *INDIFFERENT]
    body = dict.fromkeys(names, None)
    assert COMPLETIONS.read(body | {"prompt": "x"}) == COMPLETIONS.read({"prompt": "x"})
    body["max_completion_tokens"] = None
    assert CHAT.read(body | {"messages": [USER]}) == CHAT.read({"messages": [USER]})


def test_every_parameter_at_its_limits_is_taken() -> None:
    for low_or_high in (
        {"temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0, "repetition_penalty": 0.01},
        {"temperature": 2, "top_p": 1, "top_k": 2**62, "min_p": 1, "repetition_penalty": 10},
        {"presence_penalty": -2, "frequency_penalty": 2, "seed": -(2**63), "n": 1},
        {"stop": ["x" * 256] * 16, "seed": 2**63 - 1, "max_tokens": 2**62},
    ):
        COMPLETIONS.read({"prompt": "x"} | low_or_high)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_UNLESS))
def test_what_an_endpoint_lacks_is_refused(name: str) -> None:
    value = {"best_of": 2, "echo": True, "store": True}.get(name, "something")
    for body, model in (({"prompt": "x"}, CompletionRequest), ({"messages": [USER]}, ChatRequest)):
        if name in model.model_fields:
            continue
        assert refusal({**body, name: value}) == ("unsupported_parameter", name)
        for neutral in UNSUPPORTED_UNLESS[name]:
            MANY_CHATS.read({"messages": [USER], name: neutral})


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_others_call_what_an_answer_is_bound_to_is_not_ignored(name: str) -> None:
    assert refusal({"prompt": "x", name: {"a": 1}}) == ("unsupported_parameter", name)
    COMPLETIONS.read({"prompt": "x", name: {}})


@pytest.mark.parametrize(
    ("message", "code", "where"),
    [
        ({"content": "x"}, "missing_required_parameter", ".role"),
        ({"role": "wizard", "content": "x"}, "invalid_value", ".role"),
        ({"role": "user"}, "missing_required_parameter", ".content"),
        ({"role": "user", "content": None}, "missing_required_parameter", ".content"),
        ({"role": "user", "content": 5}, "invalid_value", ".content"),
        ({"role": "user", "content": ["x"]}, "invalid_value", ".content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "missing_required_parameter",
         ".content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]},
         "unsupported_parameter", ".content[1].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "missing_required_parameter",
         ".content[0].text"),
        ({"role": "assistant", "tool_calls": [{}]}, "missing_required_parameter",
         ".tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
         "missing_required_parameter", ".tool_calls[0].function.arguments"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "invalid_value", ".tool_calls"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "unsupported_parameter",
         ".function_call"),
        ("x", "invalid_value", ""),
        (None, "invalid_value", ""),
    ],
)  # fmt: skip
def test_a_wrong_message_is_named_by_its_place(message: Any, code: str, where: str) -> None:
    assert refusal({"messages": [USER, message]}) == (code, f"messages[1]{where}")
    assert refusal({"messages": [[USER], [message]]}) == (code, f"messages[1][0]{where}")


def test_there_is_an_end_to_messages_and_parts() -> None:
    assert refusal({"messages": [USER] * 10_001}) == ("invalid_value", "messages")
    parts = [{"type": "text", "text": ""}] * 10_001
    message = {"role": "user", "content": parts}
    assert refusal({"messages": [message]}) == ("invalid_value", "messages[0].content")


def test_v2_takes_one_conversation_or_many() -> None:
    assert len(MANY_CHATS.read({"messages": [USER]}).prompts) == 1
    assert len(MANY_CHATS.read({"messages": [[USER], [USER, USER]]}).prompts) == 2
    assert refusal({"messages": [[USER], USER]}) == ("invalid_value", "messages[1]")
    assert refusal({"messages": [[USER], []]}) == ("invalid_value", "messages[1]")


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("logit_bias", {"x": 1}, ""),
        ("logit_bias", {"-1": 1}, ""),
        ("logit_bias", {"1": 101}, ".1"),
        ("logit_bias", {str(token): 0 for token in range(1025)}, ""),
        ("logit_bias", [], ""),
        ("min_tokens", -1, ""),
        ("ignore_eos", "yes", ""),
        ("stop_token_ids", [-1], "[0]"),
        ("stop_token_ids", 5, ""),
        ("response_format", {"type": "xml"}, ".type"),
        ("response_format", {"type": "json_schema"}, ".json_schema"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": []}},
         ".json_schema.schema"),
        ("response_format", "json_object", ""),
        # What would bind the answer, if it were known here.
        ("response_format", {"type": "json_object", "value": {}}, ""),
        ("response_format", {"type": "text", "schema": {}}, ".schema"),
        ("response_format", {"type": "json_object", "json_schema": {"schema": {}}}, ".json_schema"),
        ("response_format", {"type": "json_schema", "schema": {}}, ".json_schema"),
        ("response_format", {"type": "json_schema", "json_schema": {"definition": {}}},
         ".json_schema"),
        ("guided_json", "{", ""),
        ("guided_json", "[]", ""),
        ("guided_json", {"a": eval("[" * 70 + "]" * 70)}, ""),
        ("guided_json", {"enum": [0] * 100_001}, ""),
        ("guided_json", {"items": {"minProperties": 2, "required": ["a"]}}, ""),
        ("guided_regex", "", ""),
        ("guided_choice", [], ""),
        ("guided_choice", ["a", 1], "[1]"),
        ("guided_choice", ["a\0"], ""),
        ("guided_grammar", 5, ""),
        ("logprobs", True, ""),
        ("logprobs", 21, ""),
        ("best_of", 0, ""),
        ("echo", 1, ""),
    ],
)  # fmt: skip
def test_a_wrong_extra_is_refused_by_name(name: str, value: Any, where: str) -> None:
    code, param = refusal({"prompt": "x", name: value})
    assert (code, param) in (
        ("invalid_value", name + where),
        ("missing_required_parameter", name + where),
    )


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": OF_A_LIST}]}, "tools[0].function.parameters"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_of_a_chat_is_refused_by_name(body: dict[str, Any], where: str) -> None:
    assert refusal({"messages": [USER], **body})[1] == where


def completion(**body: Any) -> Ask:
    return COMPLETIONS.read({"prompt": "x", **body})


def chat(**body: Any) -> Ask:
    return CHAT.read({"messages": [USER], **body})


@pytest.mark.parametrize(
    ("ask", "logprobs"),
    [
        (completion(), None),
        (completion(logprobs=0), 0),
        (completion(logprobs=20), 20),
        (chat(), None),
        (chat(logprobs=False, top_logprobs=0), None),
        (chat(logprobs=True), 0),
        (chat(logprobs=True, top_logprobs=3), 3),
    ],
)
def test_how_many_alternatives_are_told_of(ask: Ask, logprobs: int | None) -> None:
    assert ask.logprobs == logprobs


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [USER], "stream": False, "stream_options": {}}, "stream_options"),
        ({"messages": [USER], "top_logprobs": 1}, "top_logprobs"),
        ({"messages": [USER], "top_logprobs": 1, "logprobs": False}, "top_logprobs"),
        ({"messages": [USER], "min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"messages": [USER], "min_tokens": 251}, "min_tokens"),
        ({"prompt": "x", "min_tokens": 17, "model": "m"}, "min_tokens"),
        ({"prompt": "x", "min_tokens": 1, "max_tokens": 0}, "min_tokens"),
        ({"prompt": "x", "min_tokens": 3, "max_tokens": 5, "max_completion_tokens": 2},
         "min_tokens"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "x", "n": 2, "best_of": 3, "stream": True}, "best_of"),
        ({"prompt": "x", "echo": True, "suffix": "y"}, "echo"),
    ],
)  # fmt: skip
def test_what_contradicts_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refusal(body) == ("invalid_value", param)


def test_what_goes_together_is_taken() -> None:
    assert chat(stream_options={"include_usage": True}, stream=True).include_usage
    assert chat(min_tokens=2, max_tokens=1, max_completion_tokens=2).min_tokens == 2
    assert chat(model="m", min_tokens=10_000).min_tokens == 10_000
    best = completion(n=2, best_of=3)
    assert (best.n, best.candidates, best.count_param) == (2, 3, "best_of")
    assert completion(n=2, best_of=2, stream=True).count_param == "n"
    assert completion(echo=True, suffix="").echoes


@pytest.mark.parametrize(
    ("stream", "short_text", "short_chat", "openai"),
    [(None, "text", "stream", "object"), (True, *["stream"] * 3), (False, *["object"] * 3)],
)
def test_the_form_of_the_answer(
    stream: bool | None, short_text: str, short_chat: str, openai: str
) -> None:
    assert completion(stream=stream).form == short_text
    assert chat(stream=stream).form == short_chat
    assert completion(stream=stream, model="m").form == openai
    assert chat(stream=stream, model="m").form == openai


def test_max_tokens_left_out() -> None:
    limits = (
        (completion(), 250),
        (completion(model="m"), 16),
        (chat(), 250),
        (chat(model="m"), None),
    )
    for ask, limit in limits:
        assert ask.limit == Limit(limit, is_clamped=True)


def test_sampling_is_what_was_asked_for_and_else_the_default() -> None:
    assert completion().sampling == SamplingParams()
    wanted: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "seed": -1,
    }
    assert completion(**wanted).sampling == SamplingParams(**wanted)
    assert completion(top_k=-1).sampling.top_k == 0
    assert completion(logit_bias={"9": 1, "3": -1}).sampling.logit_bias == ((3, -1.0), (9, 1.0))
    greedy = completion(top_p=0).sampling
    assert (greedy.temperature, greedy.top_p) == (0, 1)


def test_every_parameter_of_the_official_client_is_honoured_refused_or_indifferent() -> None:
    chats = openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    texts = openai.types.completion_create_params.CompletionCreateParamsBase.__annotations__
    others = {*UNSUPPORTED_UNLESS, *INDIFFERENT}
    assert set(chats) <= {*others, *ChatRequest.model_fields, "stream"}
    assert set(texts) <= {*others, *CompletionRequest.model_fields, "stream"}
    assert others <= {*chats, *texts} and INDIFFERENT.isdisjoint(UNSUPPORTED_UNLESS)
