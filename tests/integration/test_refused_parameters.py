"""A running server says no to each parameter that it lacks, in both forms of an answer."""

from typing import Any

import pytest

from gateway.dialects.chat import ChatRequest
from gateway.dialects.completions import CompletionRequest
from gateway.dialects.openai_request import INDIFFERENT, UNSUPPORTED_UNLESS
from tests.serving import Server

CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHATS: {"messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"prompt": "Hi"},
}
FIELDS = {CHATS: set(ChatRequest.model_fields), COMPLETIONS: set(CompletionRequest.model_fields)}
# What clients might send. A name that is not here gets what nobody would.
LIKELY: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f", "parameters": {"type": "object"}}],
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "Hi"},
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "service_tier": "flex",
    "store": True,
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 1,
    "verbosity": "low",
    "web_search_options": {},
}
REFUSED = [
    (path, name)
    for path, fields in FIELDS.items()
    for name in UNSUPPORTED_UNLESS
    if name not in fields
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_refused(echo_server: Server, path: str, name: str, stream: bool) -> None:
    value = LIKELY.get(name, {"what": "nobody sends"})
    body = {"model": echo_server.model, **BODIES[path], "stream": stream, name: value}
    answer = echo_server.http.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert f"'{name}'" in error["message"]


@pytest.mark.parametrize("path", FIELDS)
def test_what_asks_for_nothing_is_taken(echo_server: Server, path: str) -> None:
    values = {name: value for name, neutral in UNSUPPORTED_UNLESS.items() for value in neutral[:1]}
    idle = dict.fromkeys(INDIFFERENT, "anything")
    neutral = {name: value for name, value in values.items() if name not in FIELDS[path]}
    for more in (neutral, dict.fromkeys(UNSUPPORTED_UNLESS), idle):
        body = {"model": echo_server.model, **BODIES[path], "max_tokens": 2, **more}
        answer = echo_server.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
