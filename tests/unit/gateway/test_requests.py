"""From bodies to what the pool is asked, through the whole application."""

from dataclasses import replace
from typing import Any

import openai
import pytest

from gateway.dialects.chat import ChatRequest
from gateway.dialects.completions import CompletionRequest
from gateway.dialects.openai_request import UNSUPPORTED_UNLESS, GenerationRequest
from scripts.parameter_table import INDIFFERENT
from shared.errors import ErrorCode
from shared.messages import Chat, Detokenize, Failed, Prepare, Prepared, Question, Text
from shared.sampling import SamplingParams
from tests.unit.gateway.fakes import READY, Oracle, ScriptedPool, bytewise, error, post, text_of

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def asked(body: dict[str, Any], oracle: Oracle = bytewise) -> ScriptedPool:
    """The pool that a chat or a completion has come to."""
    pool = ScriptedPool(oracle=oracle)
    path = CHATS if "messages" in body else COMPLETIONS
    assert post(pool, path, {"stream": False, **body}).status_code == 200
    pool.requests.sort(key=lambda request: int(request.request_id.rpartition("-")[2]))
    return pool


def shown(body: dict[str, Any]) -> list[Any]:
    """What a template sees of a chat: its tools, then its messages."""
    (question,) = asked(body).questions
    assert isinstance(question, Prepare) and isinstance(question.prompt, Chat)
    return [list(question.prompt.tools), *question.prompt.messages]


def test_templates_see_calls_and_results() -> None:
    broken = {"function": {"name": "g", "arguments": '{"a'}}
    messages = [
        {**USER, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, broken]},
        {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "c1"},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
        {"role": "assistant"},
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
        {"role": "assistant", "content": "Never."},
        {"role": "assistant", "content": ""},
        {"role": "system", "content": "d"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, ["g"]),
        ("none", []),
    ],
)
def test_a_model_is_told_of_the_tools_that_it_may_use(choice: Any, names: list[str]) -> None:
    told, message = shown({"messages": [USER], "tools": TOOLS, "tool_choice": choice})
    assert [tool["function"]["name"] for tool in told] == names
    assert message == USER


def test_only_texts_are_asked_about() -> None:
    pool = asked({"prompt": ["a", [98]], "suffix": ""})
    (question,) = pool.questions
    assert isinstance(question, Prepare)
    assert (question.prompt, question.param) == (Text("a"), "prompt[0]")
    assert [text_of(request.ids) for request in pool.requests] == ["a", "b"]
    (question,) = asked({"prompt": "a", "suffix": "c"}).questions
    assert isinstance(question, Prepare) and question.prompt == Text("a", "c")
    (question,) = asked({"prompt": [97], "echo": True}).questions
    assert isinstance(question, Detokenize) and question.ids == (97,)


def test_choices_are_numbered_prompt_by_prompt() -> None:
    pool = asked({"prompt": ["a", "b"], "n": 2, "seed": 5, "stop": "."})
    assert [text_of(request.ids) for request in pool.requests] == ["a", "a", "b", "b"]
    assert [request.sampling.seed for request in pool.requests] == [5, 6, 5, 6]
    assert {request.stop for request in pool.requests} == {(".",)}
    names, places = zip(*(each.request_id.rsplit("-", 1) for each in pool.requests), strict=True)
    assert len(set(names)) == 1 and places == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("body", "logprobs"),
    [
        ({"best_of": 2}, 0),
        ({"best_of": 2, "logprobs": 3}, 3),
        ({"best_of": 2, "n": 2}, None),
    ],
)
def test_the_best_are_found_by_log_probabilities(
    body: dict[str, Any], logprobs: int | None
) -> None:
    requests = asked({"prompt": "x", **body}).requests
    assert [request.logprobs for request in requests] == [logprobs] * 2


def test_what_ends_a_turn_comes_on_top_of_what_the_client_says() -> None:
    def oracle(question: Question) -> Prepared:
        return replace(bytewise(question), stop=("\nUser:",))

    body: dict[str, Any] = {"messages": [USER], "stop": ["a", "b"]}
    (request,) = asked(body, oracle).requests
    assert request.stop == ("a", "b", "\nUser:")
    # The client's are not of the form of calls, which is not shown as text.
    (request,) = asked({**body, "tools": TOOLS}, oracle).requests
    assert request.stop == ("\nUser:",)


def test_there_is_no_room_for_some_of_many() -> None:
    pool = ScriptedPool(status=replace(READY, waiting=3))
    assert error(post(pool, COMPLETIONS, {"prompt": "x", "n": 4})) == (429, "queue_full", None)
    assert post(pool, COMPLETIONS, {"prompt": "x", "n": 3}).status_code == 200


def test_prompts_are_counted_before_each_is_read() -> None:
    status = replace(READY, max_queue=10_000)
    answers = [post(ScriptedPool(status=status), COMPLETIONS, {"prompt": ["x"] * n})
               for n in (2048, 2049)]  # fmt: skip
    assert answers[0].status_code == 200
    assert error(answers[1]) == (400, "invalid_value", "prompt")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [USER], "tools": TOOLS}, "tools"),
        ({"messages": [USER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": ["x", "y"], "guided_json": {}, "n": 2}, "guided_json"),
        ({"prompt": [97], "guided_choice": ["a"]}, "guided_choice"),
    ],
)
def test_a_grammar_is_tried_once_and_called_what_it_is_in_the_request(
    body: dict[str, Any], param: str, stream: bool
) -> None:
    tried = []

    def oracle(question: Question) -> Prepared | Failed:
        if isinstance(question, Prepare) and question.grammar is not None:
            tried.append(question.grammar)
            code = ErrorCode.INVALID_VALUE.value
            return Failed(question.request_id, code, "cannot be used: why", "grammar")
        return bytewise(question)

    pool = ScriptedPool(oracle=oracle)
    path = CHATS if "messages" in body else COMPLETIONS
    answer = post(pool, path, {**body, "stream": stream})
    assert error(answer) == (400, "invalid_value", param)
    assert answer.json()["error"]["message"] == f"'{param}' cannot be used: why"
    assert len(tried) == 1 and pool.requests == []


@pytest.mark.parametrize(
    ("body", "sampling"),
    [
        ({}, {}),
        ({name: None for name in GenerationRequest.model_fields}, {}),
        ({name: None for name in (*UNSUPPORTED_UNLESS, *INDIFFERENT)}, {}),
        *(({name: value}, {name: value}) for name, value in {
            "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0, "presence_penalty": 1,
            "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": -1,
        }.items()),
        ({"top_k": -1}, {"top_k": 0}),
        ({"logit_bias": {"9": 1, "3": -1}}, {"logit_bias": ((3, -1.0), (9, 1.0))}),
        ({"top_p": 0}, {"temperature": 0, "top_p": 1}),
    ],
)  # fmt: skip
def test_sampling_is_what_was_asked_for_and_else_the_default(
    body: dict[str, Any], sampling: dict[str, Any]
) -> None:
    for text in ({"prompt": "x"}, {"messages": [USER]}):
        (request,) = asked({**body, **text, "stream": False}).requests
        assert request.sampling == SamplingParams(**sampling)


def test_every_parameter_of_the_official_client_is_honoured_refused_or_indifferent() -> None:
    chats = openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    texts = openai.types.completion_create_params.CompletionCreateParamsBase.__annotations__
    others = {*UNSUPPORTED_UNLESS, *INDIFFERENT}
    assert set(chats) <= {*others, *ChatRequest.model_fields, "stream"}
    assert set(texts) <= {*others, *CompletionRequest.model_fields, "stream"}
    assert others <= {*chats, *texts} and INDIFFERENT.isdisjoint(UNSUPPORTED_UNLESS)
