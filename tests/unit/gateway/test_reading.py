"""What bodies may hold, and what a request becomes."""

from typing import Any

import openai

from gateway.ask import Ask
from gateway.dialects.chat import CHAT, ChatRequest
from gateway.dialects.completions import COMPLETIONS, CompletionRequest
from gateway.dialects.openai_request import (
    UNSUPPORTED_UNLESS,
    GenerationRequest,
)
from scripts.parameter_table import INDIFFERENT
from shared.sampling import SamplingParams

USER = {"role": "user", "content": "Hi"}


def test_null_is_the_default_for_every_optional_field() -> None:
    names = [*GenerationRequest.model_fields, *UNSUPPORTED_UNLESS, *INDIFFERENT]
    body = dict.fromkeys(names, None)
    assert COMPLETIONS.read(body | {"prompt": "x"}) == COMPLETIONS.read({"prompt": "x"})
    body["max_completion_tokens"] = None
    assert CHAT.read(body | {"messages": [USER]}) == CHAT.read({"messages": [USER]})


def completion(**body: Any) -> Ask:
    return COMPLETIONS.read({"prompt": "x", **body})


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
