"""No parameter of OpenAI's is ignored without a word: it is known, refused or said to be idle."""

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from pydantic import BaseModel

from gateway.dialects.chat import ChatRequest, ManyChatsRequest
from gateway.dialects.completions import CompletionRequest
from gateway.dialects.openai_request import INDIFFERENT, UNSUPPORTED_UNLESS

CHAT = {
    *chats.CompletionCreateParamsNonStreaming.__annotations__,
    *chats.CompletionCreateParamsStreaming.__annotations__,
}
COMPLETION = {
    *completions.CompletionCreateParamsNonStreaming.__annotations__,
    *completions.CompletionCreateParamsStreaming.__annotations__,
}
BODIES: list[tuple[type[BaseModel], set[str]]] = [
    (ChatRequest, CHAT),
    (ManyChatsRequest, CHAT),
    (CompletionRequest, COMPLETION),
]


@pytest.mark.parametrize(("body", "names"), BODIES)
def test_every_parameter_is_accounted_for(body: type[BaseModel], names: set[str]) -> None:
    assert {"model", "stream", "seed"} < names
    assert names - {*body.model_fields, *UNSUPPORTED_UNLESS, *INDIFFERENT} == set()


def test_what_is_refused_or_idle_is_a_parameter_of_openai() -> None:
    assert {*UNSUPPORTED_UNLESS, *INDIFFERENT} - (CHAT | COMPLETION) == set()


def test_no_parameter_is_both_refused_and_idle() -> None:
    assert INDIFFERENT & set(UNSUPPORTED_UNLESS) == set()


def test_what_every_body_knows_is_not_in_the_list_of_what_is_refused() -> None:
    for name in UNSUPPORTED_UNLESS:
        assert any(name not in body.model_fields for body, _ in BODIES), name


@pytest.mark.parametrize(("body", "_names"), BODIES)
def test_nothing_that_a_body_knows_is_said_to_be_idle(
    body: type[BaseModel], _names: set[str]
) -> None:
    assert set(body.model_fields) & INDIFFERENT == set()
