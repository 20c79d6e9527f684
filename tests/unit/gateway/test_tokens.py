"""``/tokenize`` and its kin: what is asked of the pool, and what becomes of the answer."""

from typing import Any

import pytest

from shared.messages import Chat, Failed, Prepare, Question, Text
from tests.unit.gateway.fakes import (
    ScriptedPool,
    error,
    post,
)

USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [USER]}
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"content": "Hi"}),
    ("/tokenize", CHAT),
    ("/detokenize", {"tokens": [72]}),
    ("/apply-template", CHAT),
    ("/v1/chat/completions/input_tokens", CHAT),
]


HE = Text("Hé")


@pytest.mark.parametrize(
    ("body", "prompt", "begins"),
    [
        ({"content": "Hé"}, HE, False),
        ({"content": "Hé", "add_special": True}, HE, True),
        ({"content": "Hé", "parse_special": False}, Text("Hé", parses_special=False), False),
        ({"prompt": "Hé", "model": "org/model"}, HE, True),
        ({"prompt": "Hé", "add_special_tokens": False, "parse_special": True}, HE, False),
        (CHAT, Chat((USER,)), True),
        ({**CHAT, "content": None, "add_special": None}, Chat((USER,)), True),
    ],
)
def test_what_is_tokenized(body: dict[str, Any], prompt: Chat | Text, begins: bool) -> None:
    pool = ScriptedPool()
    answer = post(pool, "/tokenize", {**body, "return_token_strs": True}).json()
    (question,) = pool.questions
    assert isinstance(question, Prepare)
    assert (question.prompt, question.begins) == (prompt, begins)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert (answer["tokens"][0] == 256) == begins


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
