"""``/tokenize`` and its kin: what is asked of the pool, and what becomes of the answer."""

import http.client
import json
import logging
from typing import Any

import pytest

from shared.messages import Chat, Failed, Prepare, Question, Text
from tests.unit.gateway.fakes import (
    ScriptedPool,
    error,
    post,
    served,
    text_of,
)

USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [USER]}
RENDERED = "user: Hi\nassistant:"
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"content": "Hi"}),
    ("/tokenize", CHAT),
    ("/detokenize", {"tokens": [72]}),
    ("/apply-template", CHAT),
    ("/v1/chat/completions/input_tokens", CHAT),
]


def tokenize(body: dict[str, Any], pool: ScriptedPool | None = None) -> tuple[Any, Prepare]:
    """The answer, and the question that it came from."""
    pool = pool or ScriptedPool()
    response = post(pool, "/tokenize", body)
    assert response.status_code == 200, response.text
    question = pool.questions[-1]
    assert isinstance(question, Prepare)
    return response.json(), question


def test_a_text_as_for_llama_server() -> None:
    answer, question = tokenize({"content": "<s>Hé"})
    ids = [*b"<s>", 72, 195, 169]
    assert answer == {"tokens": ids, "count": 6, "max_model_len": 100}
    assert (question.prompt, question.begins) == (Text("<s>Hé"), False)
    answer, question = tokenize({"content": "Hé", "add_special": True, "with_pieces": True})
    assert question.begins
    assert answer["count"] == 4
    assert answer["tokens"] == [
        {"id": 256, "piece": ""},
        {"id": 72, "piece": "H"},
        {"id": 195, "piece": "\ufffd"},
        {"id": 169, "piece": "\ufffd"},
    ]


def test_a_text_as_for_vllm() -> None:
    answer, question = tokenize({"prompt": "Hi", "model": "org/model"})
    assert answer == {"tokens": [256, 72, 105], "count": 3, "max_model_len": 100}
    assert question.begins
    answer, question = tokenize(
        {"prompt": "Hi", "add_special_tokens": False, "return_token_strs": True}
    )
    assert answer == {
        "tokens": [72, 105], "count": 2, "max_model_len": 100, "token_strs": ["H", "i"],
    }  # fmt: skip


def test_a_chat_becomes_the_prompt_that_it_would_be() -> None:
    pool = ScriptedPool()
    post(pool, "/v1/chat/completions", {**CHAT, "stream": False})
    answer, question = tokenize({**CHAT, "return_token_strs": True}, pool)
    assert question.prompt == Chat((USER,))
    assert text_of(pool.requests[0].ids) == RENDERED
    assert question.begins
    assert answer["count"] == 1 + len(RENDERED) and len(answer["token_strs"]) == answer["count"]
    counted = post(pool, "/v1/chat/completions/input_tokens", {**CHAT, "temperature": 0.5})
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": answer["count"]}
    assert post(pool, "/apply-template", CHAT).json() == {"prompt": RENDERED}


def test_special_tokens_of_a_text_are_plain_if_it_says_so() -> None:
    for body in ({"content": "<s>"}, {"prompt": "<s>", "parse_special": True}):
        assert tokenize(body)[1].prompt == Text("<s>")
    body = {"content": "<s>", "parse_special": False}
    assert tokenize(body)[1].prompt == Text("<s>", parses_special=False)


def test_a_text_that_cannot_be_tokenized_is_named() -> None:
    def oracle(asked: Question) -> Failed:
        param = asked.param if isinstance(asked, Prepare) else "tokens"
        return Failed(asked.request_id, "invalid_prompt", "it cannot be", param)

    params = [error(post(ScriptedPool(oracle=oracle), path, body)) for path, body in POSTS]
    assert params == [
        (400, "invalid_prompt", param)
        for param in ("content", "messages", "tokens", "messages", "messages")
    ]


def test_a_question_takes_no_longer_than_its_request_may() -> None:
    pool = ScriptedPool(oracle=lambda _: None)
    for path, body in POSTS:
        response = post(pool, path, body, headers={"x-request-timeout": "0.01"})
        assert error(response) == (504, "request_timeout", None)
    assert len(pool.cancelled) == len(POSTS)


def test_a_client_that_leaves_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = ScriptedPool(oracle=lambda _: None)
    with served(pool) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/tokenize", json.dumps({"content": "a"}))
        assert pool.waiting.wait(10)
        connection.close()
        assert pool.cancellation.wait(10)
    lines = [r.getMessage() for r in caplog.records if r.name == "gateway.access"]
    assert [line.startswith("POST /tokenize 499 ") for line in lines] == [True]
