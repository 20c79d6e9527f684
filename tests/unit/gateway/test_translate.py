"""From requests to generations."""

from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.openai.prompts import template_messages
from gateway.openai.translate import AnswerPlan
from gateway.openai.validation import chat_request, completion_request
from shared.errors import ErrorCode
from shared.sampling import SamplingParams
from tests.unit.gateway.fakes import MODEL, planned

USER = {"role": "user", "content": "Hi"}


def completion(prompts: list[str], **body: Any) -> AnswerPlan:
    request = completion_request({"prompt": prompts, **body})
    return planned(request, prompts)


def chat(**body: Any) -> AnswerPlan:
    request = chat_request({"messages": [USER], **body})
    return planned(request, ["rendered"], ("\nUser:",))


@pytest.mark.parametrize(
    ("stream", "short_text", "short_chat", "openai"),
    [(None, "text", "stream", "object"), (True, *["stream"] * 3), (False, *["object"] * 3)],
)
def test_the_form_of_the_answer(
    stream: bool | None, short_text: str, short_chat: str, openai: str
) -> None:
    assert completion(["x"], stream=stream).form == short_text
    assert chat(stream=stream).form == short_chat
    assert chat(stream=stream, model=None).form == short_chat
    assert completion(["x"], stream=stream, model="m").form == openai
    assert chat(stream=stream, model="m").form == openai


def test_max_tokens_left_out() -> None:
    for made, limit in (
        (completion(["x"]), 250),
        (completion(["x"], model="m"), 16),
        (chat(), 250),
        (chat(model="m"), None),
    ):
        generation = made.generations[0]
        room = MODEL.n_ctx - len(generation.ids)
        assert generation.max_tokens == min(room, limit or room), "it is cut to the context"
    assert chat(max_tokens=7).generations[0].max_tokens == 7


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "param", "said"),
    [
        ("", 1, "prompt", "the prompt is empty"),
        ("x" * 100, None, "prompt", "has 100 in the prompt and 250 for the completion."),
        ("x" * 100, 1, "prompt", "Shorten the prompt or lower max_tokens."),
        ("x" * 101, 0, "prompt", "has 101 in the prompt. Shorten the prompt."),
        ("x" * 60, 41, "max_tokens", "has 60 in the prompt and 41 for the completion."),
    ],
)
def test_what_does_not_fit_into_the_context_is_refused(
    prompt: str, max_tokens: int | None, param: str, said: str
) -> None:
    with pytest.raises(ApiError) as caught:
        completion([prompt], max_tokens=max_tokens)
    assert caught.value.param == param
    assert said in caught.value.message
    if prompt:
        assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        with pytest.raises(ApiError) as caught:
            planned(chat_request({"messages": [USER], "max_tokens": max_tokens}), [prompt])
        assert caught.value.param == {"prompt": "messages"}.get(param, param)


def test_what_just_fits_is_taken() -> None:
    assert completion(["x" * 100], max_tokens=0).generations[0].max_tokens == 0
    assert completion(["x" * 99], max_tokens=1).generations[0].max_tokens == 1
    assert completion(["x" * 99]).generations[0].max_tokens == 1


def test_choices_are_numbered_prompt_by_prompt() -> None:
    made = completion(["a", "b"], n=2, seed=5, stop=["."])
    assert [bytes(g.ids) for g in made.generations] == [b"a", b"a", b"b", b"b"]
    assert [g.sampling.seed for g in made.generations] == [5, 6, 5, 6]
    assert [g.request_id for g in made.generations] == [f"{made.header.id}-{i}" for i in range(4)]
    assert made.generations[0].stop == (".",)
    assert made.n == 2


def test_sampling_is_what_was_asked_for_and_else_the_default() -> None:
    assert completion(["x"]).generations[0].sampling == SamplingParams()
    given: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "seed": -1,
    }
    assert completion(["x"], **given).generations[0].sampling == SamplingParams(**given)
    assert completion(["x"], top_k=-1).generations[0].sampling.top_k == 0


def test_ids_say_what_they_are_and_never_repeat() -> None:
    assert completion(["x"]).header.id.startswith("cmpl-")
    assert chat().header.id.startswith("chatcmpl-")
    assert chat().header.id != chat().header.id
    assert chat().header.system_fingerprint.startswith("m.gguf@")


def test_usage_in_the_stream_only_when_asked_for() -> None:
    assert chat(stream_options={"include_usage": True}).include_usage
    assert not chat(stream_options={"include_usage": False}).include_usage
    assert not chat(stream_options={}).include_usage
    with pytest.raises(ApiError) as caught:
        chat(model="m", stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


def test_templates_are_told_system_for_developer() -> None:
    messages = [{"role": "developer", "content": "d"}, USER]
    made = template_messages(chat_request({"messages": messages}).messages)
    assert made == [{"role": "system", "content": "d"}, USER]


def test_what_ends_an_answer_of_a_chat_comes_on_top_of_what_the_client_says() -> None:
    generation = chat(stop=["a", "b"]).generations[0]
    assert generation.stop == ("a", "b", "\nUser:")
    assert completion(["x"], stop="a").generations[0].stop == ("a",)
