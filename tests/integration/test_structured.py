"""Structured output of a running server, whose engine repeats the prompt."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import jsonschema
import pytest

from tests.serving import Server, chat, served_echo, streamed, text_of
from worker.prompt.tools import call_text

CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 600},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANN = '{"name": "Ann \\"Ä\\" }", "age": 30}'


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


TOOLS = [tool("person", PERSON), tool("now")]


def choice_of(server: Server, body: dict[str, Any], path: str = CHATS) -> Any:
    answer = server.http.post(path, json={"stream": False, "max_tokens": 900, **body})
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return choice


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize("prompt", ["tell me", '{"name": 1', '{"age": 5, "name": ""}', "{}"])
def test_what_does_not_match_becomes_what_does(echo_server: Server, prompt: str) -> None:
    schema = {**PERSON, "properties": {**PERSON["properties"], "name": {"enum": ["a", "é"]}}}  # type: ignore[dict-item]
    for temperature in (0, 1):
        body = {"response_format": formatted(schema), "temperature": temperature}
        choice = choice_of(echo_server, chat(prompt, **body))
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)


CALLS = f"{call_text('person', ANN)}\n{call_text('now', {})}"


def test_a_call_that_has_to_be_is_made_of_anything(echo_server: Server) -> None:
    named = {"type": "function", "function": {"name": "now"}}
    for prompt in ("hello", CALLS):
        answer = choice_of(echo_server, chat(prompt, tools=TOOLS, tool_choice=named))
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] == "now"
        assert json.loads(call["function"]["arguments"]) == {}
        assert answer["finish_reason"] == "tool_calls"


def test_stop_strings_end_the_text_before_a_call_and_no_call(echo_server: Server) -> None:
    stop = ["Ann", "\n", "tool_call", '"']
    answer = choice_of(echo_server, chat(CALLS, tools=TOOLS, stop=stop))
    call, _ = answer["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["name"].startswith("Ann")
    assert answer["finish_reason"] == "tool_calls"
    answer = choice_of(echo_server, chat(f"Let me see. {CALLS}", tools=TOOLS, stop=["see", "\n"]))
    assert answer["message"]["content"] == "Let me "
    assert "tool_calls" not in answer["message"]
    assert answer["finish_reason"] == "stop"


def deep(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE_SCHEMAS: dict[str, Any] = {
    "negation": {"not": {}},
    "unknown type": {"type": "strin"},
    "no way out": {"$ref": "#"},
    "somebody else's": {"$ref": "http://169.254.169.254/latest"},
    "a file's": {"$ref": "file:///etc/passwd"},
    "too deep": deep(40),
    "slow": {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 999_983}}},
    "wide": {"type": "object", "properties": {f"p{i}": {} for i in range(9000)}},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
}
HOSTILE: dict[str, tuple[str, Any]] = {
    **{f"response_format, {name}": ("response_format", formatted(schema))
       for name, schema in HOSTILE_SCHEMAS.items() if name != "wide"},
    **{f"tools, {name}": ("tools", [tool("f", {"properties": {"x": schema}})])
       for name, schema in HOSTILE_SCHEMAS.items() if name not in ("wide", "slow", "no way out")},
    "tools, no way out": ("tools", [tool("f", {"type": "object", "$ref": "#"})]),
    "guided_json, wide": ("guided_json", HOSTILE_SCHEMAS["wide"]),
    "guided_regex, back": ("guided_regex", r"(a)\1"),
    "guided_grammar, nothing": ("guided_grammar", "start: nothing"),
    "guided_grammar, nested": ("guided_grammar", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "guided_grammar, endless": ("guided_grammar", "start: start"),
    "guided_grammar, large": ("guided_grammar", "x" * (256 << 10) + "x"),
}  # fmt: skip

TOO_EXPENSIVE = ("response_format, slow", "guided_json, wide")


@pytest.fixture(scope="module")
def attacked() -> Iterator[Server]:
    """A server that somebody else uses all the time; all of it is answered, by the same workers."""
    with served_echo("--drain-timeout", "2") as server:
        with used(server):
            yield server
        server.stop()


@contextmanager
def used(server: Server) -> Iterator[None]:
    pids = server.worker_pids()
    wrong: list[str] = []
    is_over = False

    def ask() -> int:
        n = 0
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not is_over:
                answer = client.post(COMPLETIONS, json={"prompt": f"bystander {n}"})
                if answer.json() != f"bystander {n}":
                    wrong.append(answer.text)
                n += 1
        return n

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask)
        try:
            yield
        finally:
            is_over = True
        assert asked.result() > 10
    assert wrong == []
    assert server.worker_pids() == pids
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_kept_to_is_refused_by_name(attacked: Server, case: str) -> None:
    param, value = HOSTILE[case]
    answer = attacked.http.post(CHATS, json=chat("x", max_tokens=50, **{param: value}))
    status, code, named = error_of(answer)
    expected = "grammar_too_expensive" if case in TOO_EXPENSIVE else "invalid_value"
    assert (status, code) == (400, expected)
    assert named.partition("[")[0].partition(".")[0] == param
    message = answer.json()["error"]["message"]
    assert message.startswith(f"'{param}") and len(message) < 500


def test_a_tool_that_cannot_be_kept_to_is_named(attacked: Server) -> None:
    unknown = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    body = chat("x", tools=[tool("now"), tool("Get-it", unknown)])
    answer = attacked.http.post(CHATS, json=body)
    assert error_of(answer) == (400, "invalid_value", "tools")
    message = answer.json()["error"]["message"]
    assert "arguments_1_of_get_it" in message and "uniqueItems" in message


def test_a_grammar_that_fails_on_the_way(attacked: Server) -> None:
    regex = r"((\w+\s?){1,1000}\w*){1,1000}"
    body = chat("a" * 100, guided_regex=regex, max_tokens=100)
    answer = attacked.http.post(CHATS, json={**body, "stream": False})
    assert error_of(answer) == (400, "invalid_value", "guided_regex")
    with streamed(attacked, body) as stream:
        *chunks, last = stream
    assert text_of(chunks) and set(text_of(chunks)) == {"a"}
    assert (last["error"]["code"], last["error"]["param"]) == ("invalid_value", "guided_regex")
    # What it took is not counted against the next.
    choice = choice_of(attacked, chat("a", guided_regex=regex))
    assert choice["message"]["content"] == "a"


def test_the_death_of_a_worker_is_not_noticed_by_who_waits_for_the_end(
    slow_server: Server,
) -> None:
    text = json.dumps({"name": "x" * 60, "age": 30})
    body = chat(text, response_format=formatted(PERSON), max_tokens=900, stream=False)
    slow_server.wait_until_idle()
    pids = slow_server.worker_pids()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(slow_server.http.post, CHATS, json=body)
        status = slow_server.wait_until(lambda status: status["running"] == 1)
        (victim,) = (w["pid"] for w in status["workers"] if w["state"] == "running")
        os.kill(victim, signal.SIGKILL)
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == text
    slow_server.wait_until_idle()
    assert set(pids) - set(slow_server.worker_pids()) == {victim}
