"""Parameters that depend on each other, or on the model."""

import re
from typing import Any

import pytest
from gateway.openai.admission import check_prompt_ids
from gateway.openai.parameters import (
    check_parameters,
    check_token_ids,
    wanted_logprobs,
)
from gateway.openai.requests import GenerationRequest
from gateway.openai.translate import plan_answer
from gateway.openai.validation import chat_request, completion_request

from gateway.errors import ApiError
from shared.errors import ErrorCode
from tests.unit.gateway.fakes import CONFIG, MODEL


def completion(**body: Any) -> GenerationRequest:
    return completion_request({"prompt": "x", **body})


def chat(**body: Any) -> GenerationRequest:
    return chat_request({"messages": [{"role": "user", "content": "x"}], **body})


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (completion(), None),
        (completion(logprobs=0), 0),
        (completion(logprobs=20), 20),
        (chat(), None),
        (chat(logprobs=False), None),
        (chat(logprobs=False, top_logprobs=0), None),
        (chat(logprobs=True), 0),
        (chat(logprobs=True, top_logprobs=3), 3),
    ],
)
def test_how_many_alternatives_are_told_of(request_: GenerationRequest, wanted: int | None) -> None:
    assert wanted_logprobs(request_) == wanted


@pytest.mark.parametrize(
    ("request_", "is_stream", "param"),
    [
        (chat(stream_options={}), False, "stream_options"),
        (chat(top_logprobs=1), False, "top_logprobs"),
        (chat(top_logprobs=1, logprobs=False), False, "top_logprobs"),
        (chat(min_tokens=3, max_tokens=2), False, "min_tokens"),
        (completion(min_tokens=1, max_tokens=0), False, "min_tokens"),
        (completion(min_tokens=3, max_tokens=5, max_completion_tokens=2), False, "min_tokens"),
        (completion(n=3, best_of=2), False, "best_of"),
        (completion(best_of=2), True, "best_of"),
        (completion(n=2, best_of=3), True, "best_of"),
        (completion(echo=True, suffix="y"), False, "echo"),
    ],
)
def test_what_contradicts_is_refused_by_name(
    request_: GenerationRequest, is_stream: bool, param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        check_parameters(request_, request_.token_limit, is_stream=is_stream)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, param)
    assert caught.value.message.startswith(f"'{param}' ")


@pytest.mark.parametrize(
    ("request_", "is_stream"),
    [
        (chat(stream_options={"include_usage": True}), True),
        (chat(top_logprobs=0), False),
        (chat(logprobs=True, top_logprobs=20), True),
        (chat(min_tokens=2, max_tokens=2), False),
        (chat(min_tokens=2, max_tokens=1, max_completion_tokens=2), False),
        (completion(min_tokens=0, max_tokens=0), False),
        (completion(best_of=1), True),
        (completion(n=2, best_of=2), True),
        (completion(n=2, best_of=3), False),
        (completion(echo=True, suffix=""), False),
        (completion(echo=False, suffix="y"), False),
    ],
)
def test_what_goes_together_is_taken(request_: GenerationRequest, is_stream: bool) -> None:
    check_parameters(request_, request_.token_limit, is_stream=is_stream)


@pytest.mark.parametrize(
    ("request_", "most"),
    [(completion(model="m"), 16), (completion(), 250), (chat(), 250), (chat(model="m"), None)],
)
def test_nobody_wants_more_tokens_than_the_default_either(
    request_: GenerationRequest, most: int | None
) -> None:
    for least in (most or 10_000, (most or 10_000) + 1):
        wanted = request_.model_copy(update={"min_tokens": least})
        if most is None or least == most:
            plan_answer(wanted, [("x",)], CONFIG)
        else:
            with pytest.raises(ApiError, match=f"more than the {most} of 'max_tokens'"):
                plan_answer(wanted, [("x",)], CONFIG)


def refused(name: str, **body: Any) -> str:
    with pytest.raises(ApiError) as caught:
        check_token_ids(completion(**body), MODEL)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, name)
    return caught.value.message


def test_token_ids_are_of_the_model() -> None:
    check_token_ids(completion(logit_bias={"299": 1, "0": -1}, stop_token_ids=[0, 299]), MODEL)
    check_token_ids(completion(), MODEL)
    for token in (300, 999_999_999):
        assert f"below 300, not {token}" in refused("logit_bias", logit_bias={str(token): 1})
        said = refused("stop_token_ids[1]", stop_token_ids=[0, token])
        assert f"from 0 to 299, not {token}" in said
    assert "from 0 to 299" in refused("stop_token_ids[0]", stop_token_ids=[2**70])


@pytest.mark.parametrize(
    ("ids", "param", "said"),
    [
        ([0, 300], "prompt[1]", "from 0 to 299, not 300"),
        ([-1], "prompt[0]", "from 0 to 299, not -1"),
        ([2**80], "prompt[0]", "not 1208925819614629174706176"),
        ([1, True], "prompt[1]", "not True"),
        (["1"], "prompt[0]", "from 0 to 299."),
    ],
)
def test_a_prompt_of_ids_is_of_the_model(ids: list[object], param: str, said: str) -> None:
    with pytest.raises(ApiError, match=re.escape(said)) as caught:
        check_prompt_ids(ids, "prompt", MODEL)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, param)


def test_a_prompt_of_ids_fits_into_the_context() -> None:
    check_prompt_ids([299] * 100, "prompt", MODEL)
    with pytest.raises(ApiError, match="100 tokens; 'prompt' has 101") as caught:
        check_prompt_ids([1] * 101, "prompt", MODEL)
    assert caught.value.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert caught.value.param == "prompt"
