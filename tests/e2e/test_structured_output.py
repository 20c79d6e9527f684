"""Structured output of a model that writes nonsense; log probabilities of the demo model."""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jsonschema
import pytest

from tests.made_schemas import schemas
from tests.serving import Server, chat

CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASKED = "Describe a person as JSON."
# As the model has it, so that whatever the masks let through will come.
FREE: dict[str, Any] = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "stream": False}
# The shortest of many: what is told of tools has to be read, too.
SCHEMAS = sorted(schemas(40), key=lambda schema: len(json.dumps(schema)))[:12]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}

In = TypeVar("In")
Out = TypeVar("Out")


def at_once(work: Callable[[In], Out], values: Iterable[In]) -> list[Out]:
    """On both workers."""
    with ThreadPoolExecutor(2) as clients:
        return list(clients.map(work, values))


def ask(server: Server, path: str, body: dict[str, Any]) -> Any:
    answer = server.http.post(path, json={"model": server.model, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def choice_of(server: Server, body: dict[str, Any], path: str = CHATS) -> Any:
    (choice,) = ask(server, path, body)["choices"]
    return choice


def check(text: str, schema: Any) -> None:
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


def test_answers_follow_their_schemas(quick_server: Server) -> None:
    def n_whole(place: int) -> int:
        schema = SCHEMAS[place]
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        body = chat(ASKED, **FREE, seed=place, max_tokens=600, response_format=wanted)
        choice = choice_of(quick_server, body)
        if choice["finish_reason"] == "length":
            return 0
        check(choice["message"]["content"], schema)
        return 1

    assert sum(at_once(n_whole, range(12))) >= 9


def test_calls_follow_their_schemas(quick_server: Server) -> None:
    def n_whole(place: int) -> int:
        schema = SCHEMAS[place]
        tools = [{"type": "function", "function": {"name": "answer", "parameters": schema}}]
        body = chat(
            ASKED, **FREE, seed=place, max_tokens=600, tools=tools, tool_choice="required",
            parallel_tool_calls=False,
        )  # fmt: skip
        choice = choice_of(quick_server, body)
        if choice["finish_reason"] == "length":
            return 0
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "answer"
        check(call["function"]["arguments"], schema)
        return 1

    assert sum(at_once(n_whole, range(0, 12, 3))) >= 2


@pytest.mark.parametrize("path", [CHATS, COMPLETIONS])
def test_the_same_seed_gives_the_same_on_any_worker(quick_server: Server, path: str) -> None:
    body = {**chat(ASKED), "prompt": ASKED, **FREE, "response_format": FORMAT, "max_tokens": 60}

    def said(seed: int) -> Any:
        choice = choice_of(quick_server, {**body, "seed": seed}, path)
        return choice.get("text") or choice["message"]["content"]

    texts = at_once(said, [1, 2] * 4)
    assert len(set(texts[::2])) == len(set(texts[1::2])) == 1
    assert texts[0] != texts[1]


@pytest.mark.parametrize("more", [{}, {"guided_json": PERSON}, {"logprobs": 2}])
def test_choices_draw_with_seeds_one_after_another(
    quick_server: Server, more: dict[str, Any]
) -> None:
    body = {"prompt": "A person as JSON: ", **FREE, "max_tokens": 40, **more}
    both = ask(quick_server, COMPLETIONS, {**body, "n": 2, "seed": 7})["choices"]
    alone = [choice_of(quick_server, {**body, "seed": seed}, COMPLETIONS) for seed in (7, 8)]
    for choice, single in zip(both, alone, strict=True):
        assert {**choice, "index": 0} == single
    assert both[0]["text"] != both[1]["text"]


def test_the_best_of_several_is_the_likeliest(quick_server: Server) -> None:
    body = {"prompt": "Once upon a time", **FREE, "max_tokens": 8, "logprobs": 0}
    alone = [choice_of(quick_server, {**body, "seed": 7 + i}, COMPLETIONS) for i in range(4)]
    alone.sort(key=lambda c: statistics.mean(c["logprobs"]["token_logprobs"]), reverse=True)
    answer = ask(quick_server, COMPLETIONS, {**body, "seed": 7, "n": 2, "best_of": 4})
    assert [choice["text"] for choice in answer["choices"]] == [c["text"] for c in alone[:2]]
    n_tokens = sum(len(choice["logprobs"]["tokens"]) for choice in alone)
    assert answer["usage"]["completion_tokens"] == n_tokens


SENTENCE = "The capital of France is Paris, a city — as old as Zürich 😀."


def ids_of(server: Server, text: str) -> list[int]:
    tokens: list[int] = server.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    return tokens


def told_of(server: Server, prompt: Any, **more: Any) -> Any:
    """What there is to say of a prompt, as evaluations of models ask for it."""
    body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
    choice = choice_of(server, {**body, **more}, COMPLETIONS)
    assert choice["finish_reason"] == "length"
    return choice


def forced(server: Server, ids: list[int], token: int, **more: Any) -> float:
    """How likely a token is behind others: a bias brings it about, and does not change what is."""
    body = {"prompt": ids, "max_tokens": 1, "logprobs": 0, "logit_bias": {str(token): 100}}
    choice = choice_of(server, {**body, "temperature": 0, **more}, COMPLETIONS)
    (value,) = choice["logprobs"]["token_logprobs"]
    return float(value)


def test_a_prompt_is_as_likely_as_its_tokens_one_by_one(demo_server: Server) -> None:
    ids = ids_of(demo_server, SENTENCE)
    choice = told_of(demo_server, ids)
    assert choice["text"] == SENTENCE
    first, *values = choice["logprobs"]["token_logprobs"]
    assert first is None
    singly = at_once(lambda at: forced(demo_server, ids[:at], ids[at]), range(1, len(ids)))
    assert values == pytest.approx(singly, abs=1e-5)
    assert sum(values) == pytest.approx(sum(singly), abs=1e-4)
    # As text, and with all of the prompt in a cache: to the bit.
    assert told_of(demo_server, SENTENCE)["logprobs"] == choice["logprobs"]


def test_looking_at_a_prompt_changes_nothing_of_what_follows(demo_server: Server) -> None:
    body = {"prompt": SENTENCE * 3, "max_tokens": 24, "seed": 3, "temperature": 1}

    def said(**more: Any) -> str:
        text: str = choice_of(demo_server, {**body, **more}, COMPLETIONS)["text"]
        return text.removeprefix(SENTENCE * 3)

    plain = said()
    assert [said(echo=True, logprobs=0), said(), said(echo=True), said(logprobs=3)] == [plain] * 4


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0},
        {"temperature": 2, "seed": 1},
        {"temperature": 0, "frequency_penalty": 2, "repetition_penalty": 2},
        {"temperature": 0, "response_format": FORMAT},
    ],
)
def test_what_is_told_is_the_models_own_distribution(
    demo_server: Server, more: dict[str, Any]
) -> None:
    body = chat("Hi", max_tokens=6, logprobs=True, top_logprobs=20, **more)
    content = choice_of(demo_server, body)["logprobs"]["content"]
    prompt = demo_server.http.post("/apply-template", json=chat("Hi")).json()["prompt"]
    ids = ids_of(demo_server, prompt)
    for entry in content:
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(values) == 20 and values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6
        assert entry["logprob"] <= values[0]
        if more == {"temperature": 0}:
            assert entry["token"] == entry["top_logprobs"][0]["token"]
        (token,) = ids_of(demo_server, bytes(entry["bytes"]).decode())
        assert forced(demo_server, ids, token) == pytest.approx(entry["logprob"], abs=1e-5)
        ids.append(token)
