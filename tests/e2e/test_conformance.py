"""The bodies of all kinds of answers follow OpenAI's description and the types of its client."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx
import jsonschema
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests import openai_schemas as schemas
from tests.serving import Server

ModelT = TypeVar("ModelT", bound=BaseModel)

CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
OBJECT, STREAM, WITH_USAGE = "object", "stream", "stream with usage"

WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "London"]}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER_SCHEMA}}]
NAMED = {"type": "function", "function": {"name": "weather"}}
LOGPROBS = {"logprobs": True, "top_logprobs": 2}
FORMAT = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER_SCHEMA}}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "max_tokens": 200,
    "temperature": 0,
}
CHAT_CASES: dict[str, dict[str, Any]] = {
    "plain": {"max_tokens": 8},
    "one token": {"max_tokens": 1},
    "stopped": {"stop": [" ", "\n"]},
    "nothing": {"response_format": FORMAT, "max_tokens": 1, "stop": ["{"]},
    "several choices": {"max_tokens": 6, "n": 3, "temperature": 1, "seed": 1},
    "logprobs": {"max_tokens": 8, **LOGPROBS},
    "logprobs of the chosen only": {"max_tokens": 4, "logprobs": True},
    "logprobs of several choices": {"max_tokens": 4, "n": 2, **LOGPROBS},
    "a tool": {"tools": TOOLS, "tool_choice": NAMED},
    "a tool that must be called": {"tools": TOOLS, "tool_choice": "required"},
    "a tool that may be called": {"tools": TOOLS, "max_tokens": 8},
    "a tool that may not": {"tools": TOOLS, "tool_choice": "none", "max_tokens": 8},
    "a call cut short": {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 60},
    "a tool with logprobs": {"tools": TOOLS, "tool_choice": NAMED, **LOGPROBS},
    "a tool in several choices": {"tools": TOOLS, "tool_choice": NAMED, "n": 2},
    "a schema": {"response_format": FORMAT},
    "a JSON object": {"response_format": {"type": "json_object"}, "max_tokens": 12},
}
STREAMS = [(case, WITH_USAGE) for case in CHAT_CASES] + [("plain", STREAM), ("a tool", STREAM)]
COMPLETION: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 4}
COMPLETION_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "several prompts": {"prompt": ["Once", "Twice"], "n": 2, "max_tokens": 2},
    "token ids": {"prompt": [50, 57]},
    "logprobs": {"logprobs": 2},
    "logprobs of the chosen only": {"logprobs": 0},
    "echo": {"echo": True},
    "echo with logprobs": {"echo": True, "logprobs": 2},
    "a prompt alone": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "best of": {"best_of": 2, "seed": 1},
}


_validators: dict[int, jsonschema.Draft202012Validator] = {}


def check_schema(value: object, schema: schemas.Schema) -> None:
    """Check a value; the schema itself is checked once."""
    if id(schema) not in _validators:
        jsonschema.Draft202012Validator.check_schema(schema)
        _validators[id(schema)] = jsonschema.Draft202012Validator(schema)
    _validators[id(schema)].validate(value)


def strictly(kind: type[ModelT], value: object) -> ModelT:
    """``value`` as a type of the client's, which it otherwise never checks."""
    return kind.model_validate_json(json.dumps(value), strict=True)


def post(server: Server, path: str, body: dict[str, Any], mode: str) -> httpx.Response:
    streaming: dict[str, Any] = {"stream": mode != OBJECT}
    if mode == WITH_USAGE:
        streaming["stream_options"] = {"include_usage": True}
    answer = server.http.post(path, json={"model": server.model, **body, **streaming})
    assert answer.status_code == 200, answer.text
    return answer


def chunks_of(answer: httpx.Response) -> list[Any]:
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def check_stream(chunks: list[Any], n_choices: int, mode: str) -> list[Any]:
    """What holds of all streams; returns their choices, in order."""
    for name in ("id", "object", "created", "model", "system_fingerprint"):
        assert len({chunk[name] for chunk in chunks}) == 1, name
    if mode == WITH_USAGE:
        *chunks, last = chunks
        assert last["choices"] == []
        assert all(chunk["usage"] is None for chunk in chunks)
        counts = last["usage"]
        assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]
    else:
        assert not any("usage" in chunk for chunk in chunks)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in range(n_choices):
        reasons = [choice["finish_reason"] for choice in choices if choice["index"] == index]
        assert reasons[-1] is not None and set(reasons[:-1]) <= {None}
    assert {choice["index"] for choice in choices} == set(range(n_choices))
    return choices


def joined(pieces: Iterable[Any]) -> list[Any] | None:
    """Lists one after the other; None if there is none."""
    there = [piece for piece in pieces if piece is not None]
    return [item for piece in there for item in piece] if there else None


def folded_chat(choices: list[Any]) -> dict[str, Any]:
    """The pieces of one choice put together, as the whole answer has them."""
    deltas = [choice["delta"] for choice in choices]
    texts = [delta["content"] for delta in deltas if delta.get("content")]
    calls: list[Any] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        if piece["index"] == len(calls):
            calls.append({"name": piece["function"]["name"], "arguments": ""})
            assert piece["id"] and piece["type"] == "function"
        else:
            assert piece["index"] == len(calls) - 1
            assert "id" not in piece and "name" not in piece["function"]
        calls[-1]["arguments"] += piece["function"].get("arguments", "")
    logprobs = [choice.get("logprobs") or {} for choice in choices]
    return {
        "content": "".join(texts),
        "calls": calls,
        "logprobs": joined(piece.get("content") for piece in logprobs),
        "finish_reason": choices[-1]["finish_reason"],
    }


def essence(choice: dict[str, Any]) -> dict[str, Any]:
    """The same of a choice of the whole answer."""
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "calls": [call["function"] for call in message.get("tool_calls", ())],
        "logprobs": (choice["logprobs"] or {}).get("content"),
        "finish_reason": choice["finish_reason"],
    }


@pytest.fixture(scope="module")
def whole_chat(quick_server: Server) -> Callable[[str], Any]:
    """The whole answers, which are asked for once."""
    known: dict[str, Any] = {}

    def ask(case: str) -> Any:
        if case not in known:
            body = {**CHAT, **CHAT_CASES[case]}
            known[case] = post(quick_server, CHATS, body, OBJECT).json()
        return known[case]

    return ask


@pytest.mark.parametrize("case", CHAT_CASES)
def test_a_chat(case: str, whole_chat: Callable[[str], Any]) -> None:
    answer = whole_chat(case)
    check_schema(answer, schemas.CHAT_COMPLETION)
    typed = strictly(ChatCompletion, answer)
    assert [c.index for c in typed.choices] == list(range(CHAT_CASES[case].get("n", 1)))
    assert typed.usage is not None
    for choice in typed.choices:
        assert (choice.finish_reason == "tool_calls") <= bool(choice.message.tool_calls)
        assert choice.message.content is not None or choice.message.tool_calls
        assert (choice.logprobs is not None) == ("logprobs" in CHAT_CASES[case])


@pytest.mark.parametrize(("case", "mode"), STREAMS)
def test_a_streamed_chat(
    quick_server: Server, case: str, mode: str, whole_chat: Callable[[str], Any]
) -> None:
    chunks = chunks_of(post(quick_server, CHATS, {**CHAT, **CHAT_CASES[case]}, mode))
    for chunk in chunks:
        check_schema(chunk, schemas.CHAT_CHUNK)
        strictly(ChatCompletionChunk, chunk)
    whole = whole_chat(case)
    choices = check_stream(chunks, len(whole["choices"]), mode)
    for index, choice in enumerate(whole["choices"]):
        of_index = [choice for choice in choices if choice["index"] == index]
        assert [c["delta"].get("role") for c in of_index] == [
            "assistant", *[None] * (len(of_index) - 1)
        ]  # fmt: skip
        assert folded_chat(of_index) == essence(choice)
    if mode == WITH_USAGE:
        for name in ("prompt_tokens", "completion_tokens"):
            assert chunks[-1]["usage"][name] == whole["usage"][name]


@pytest.mark.parametrize("case", COMPLETION_CASES)
def test_a_completion(quick_server: Server, case: str) -> None:
    body = {**COMPLETION, "temperature": 0, **COMPLETION_CASES[case]}
    whole = post(quick_server, COMPLETIONS, body, OBJECT).json()
    check_schema(whole, schemas.COMPLETION)
    for choice in whole["choices"]:
        if choice["logprobs"] is not None:
            lengths = {len(column) for column in choice["logprobs"].values() if column is not None}
            assert len(lengths) == 1
            for name in ("token_logprobs", "top_logprobs"):
                column = choice["logprobs"][name]
                if column and body.get("echo"):
                    # Nothing comes before the first token, of which the types do not know.
                    assert column[0] is None
                    column[0] = 0.0 if name == "token_logprobs" else {}
    strictly(Completion, whole)
    if "best_of" in body:
        return  # cannot be streamed
    for mode in (STREAM, WITH_USAGE):
        chunks = chunks_of(post(quick_server, COMPLETIONS, body, mode))
        for chunk in chunks:
            check_schema(chunk, schemas.COMPLETION_CHUNK)
        choices = check_stream(chunks, len(whole["choices"]), mode)
        for choice in whole["choices"]:
            of_index = [c for c in choices if c["index"] == choice["index"]]
            assert "".join(c["text"] for c in of_index) == choice["text"]
            assert of_index[-1]["finish_reason"] == choice["finish_reason"]
            for name in ("tokens", "text_offset"):
                column = joined(c["logprobs"][name] for c in of_index if c["logprobs"])
                assert column == (choice["logprobs"] or {}).get(name)


def test_embeddings(quick_server: Server) -> None:
    body = {"model": quick_server.model, "input": ["Paris", "London"]}
    whole = quick_server.http.post("/v1/embeddings", json=body).json()
    check_schema(whole, schemas.EMBEDDINGS)
    strictly(CreateEmbeddingResponse, whole)
    encoded = quick_server.http.post(
        "/v1/embeddings", json={**body, "encoding_format": "base64"}
    ).json()
    check_schema(encoded, schemas.EMBEDDINGS_BASE64)


def test_models(quick_server: Server) -> None:
    listed = quick_server.http.get("/v1/models").json()
    check_schema(listed, schemas.MODEL_LIST)
    entry = quick_server.http.get(f"/v1/models/{quick_server.model}").json()
    check_schema(entry, schemas.MODEL)
    strictly(Model, entry)
    assert listed["data"] == [entry]


def chat_with(**more: Any) -> dict[str, Any]:
    return {"json": {**CHAT, **more}}


ERRORS: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", CHATS, chat_with(temperature=7)),
    (400, "POST", CHATS, chat_with(messages=[])),
    (400, "POST", CHATS, chat_with(max_tokens=10**6)),
    (400, "POST", CHATS, chat_with(max_tokens=10**6, stream=True)),
    (400, "POST", CHATS, chat_with(modalities=["audio"])),
    (400, "POST", CHATS, chat_with(tool_choice="required")),
    (400, "POST", CHATS, chat_with(response_format={"type": "json_schema"})),
    (400, "POST", CHATS, {"content": b"{"}),
    (400, "POST", CHATS, {"content": b""}),
    (400, "POST", COMPLETIONS, {"json": {}}),
    (400, "POST", COMPLETIONS, {"json": {"prompt": "x", "best_of": 2, "stream": True}}),
    (400, "POST", "/v1/embeddings", {"json": {"input": []}}),
    (404, "POST", CHATS, chat_with(model="gpt-4o")),
    (404, "POST", "/v1/embeddings", {"json": {"input": "x", "model": "gpt-4o"}}),
    (404, "GET", "/v1/models/gpt-4o", {}),
    (404, "GET", "/v1/nothing", {}),
    (405, "GET", CHATS, {}),
    (405, "DELETE", "/v1/models", {}),
    (413, "POST", CHATS, {"content": b" " * (3 << 20)}),
    (415, "POST", CHATS, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
    (431, "GET", "/v1/models", {"headers": {"x-long": "x" * (80 << 10)}}),
]


@pytest.mark.parametrize(("status", "method", "path", "more"), ERRORS)
def test_errors(
    quick_server: Server, status: int, method: str, path: str, more: dict[str, Any]
) -> None:
    with httpx.Client(base_url=quick_server.url) as client:  # some of them close the connection
        answer = client.request(method, path, **more)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    check_schema(answer.json(), schemas.ERROR)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def broken(value: Any, schema: schemas.Schema) -> Iterable[Any]:
    """What becomes of a value when a field that must be there is missing, or has another type."""
    for name in schema.get("required", ()):
        yield {key: item for key, item in value.items() if key != name}
        yield {**value, name: object}
    if isinstance(value, dict):
        yield {**value, "unheard_of": 1}
        for name, inner in schema["properties"].items():
            if isinstance(value.get(name), dict) and "properties" in inner:
                yield from ({**value, name: wrong} for wrong in broken(value[name], inner))
            elif isinstance(value.get(name), list) and "properties" in inner["items"]:
                first, *rest = value[name]
                for wrong in broken(first, inner["items"]):
                    yield {**value, name: [wrong, *rest]}


def test_the_schemas_see_what_is_wrong(whole_chat: Callable[[str], Any]) -> None:
    whole = whole_chat("a tool")
    wrong = list(broken(whole, schemas.CHAT_COMPLETION))
    assert len(wrong) > 20
    for each in wrong:
        with pytest.raises(jsonschema.ValidationError):
            check_schema(each, schemas.CHAT_COMPLETION)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (schemas.CHAT_COMPLETION, ChatCompletion),
        (schemas.CHAT_CHUNK, ChatCompletionChunk),
        (schemas.COMPLETION, Completion),
        (schemas.EMBEDDINGS, CreateEmbeddingResponse),
        (schemas.MODEL, Model),
    ],
)
def test_the_schemas_name_what_the_client_has_types_for(
    schema: schemas.Schema, kind: type[BaseModel]
) -> None:
    assert set(schema["properties"]) <= set(kind.model_fields)
    needed = {name for name, field in kind.model_fields.items() if field.is_required()}
    assert needed <= set(schema["required"])
