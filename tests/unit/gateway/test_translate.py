"""From requests to generations."""

from dataclasses import replace
from typing import Any

import pytest
from gateway.openai.prompts import template_messages
from gateway.openai.translate import AnswerPlan, completion_prompt, plan_answer
from gateway.openai.validation import chat_request, completion_request

from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.sampling import SamplingParams
from tests.unit.gateway.fakes import CONFIG, MODEL

USER = {"role": "user", "content": "Hi"}


def completion(prompts: list[str], **body: Any) -> AnswerPlan:
    request = completion_request({"prompt": prompts, **body})
    return plan_answer(request, [(prompt,) for prompt in prompts], CONFIG)


def chat(**body: Any) -> AnswerPlan:
    request = chat_request({"messages": [USER], **body})
    return plan_answer(request, [("rendered",)], CONFIG, ("\nUser:",))


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
        assert (generation.max_tokens, generation.max_tokens_is_default) == (limit, True)
    generation = chat(max_tokens=7).generations[0]
    assert (generation.max_tokens, generation.max_tokens_is_default) == (7, False)


def test_choices_are_numbered_prompt_by_prompt() -> None:
    made = completion(["a", "b"], n=2, seed=5, stop=["."])
    assert [g.prompt for g in made.generations] == [("a",), ("a",), ("b",), ("b",)]
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


FIM = replace(
    MODEL,
    special_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    fim_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


@pytest.mark.parametrize("suffix", [None, ""])
def test_special_tokens_in_the_prompt_of_a_completion_are_some(suffix: str | None) -> None:
    assert completion_prompt("def f():", suffix, FIM) == ("def f():",)
    text = "<fim_prefix>a<fim_suffix>b<fim_middle>"
    parts = ("", "<fim_prefix>", "a", "<fim_suffix>", "b", "<fim_middle>", "")
    assert completion_prompt(text, suffix, FIM) == parts
    assert completion_prompt(text, suffix, MODEL) == (text,)


def test_a_suffix_asks_for_what_lies_between_and_is_a_document_as_the_prompt_is() -> None:
    parts = ("", "<fim_prefix>", "a<fim_middle>", "<fim_suffix>", "b", "<fim_middle>", "")
    assert completion_prompt("a<fim_middle>", "b", FIM) == parts


def test_a_model_that_has_not_learned_to_fill_in_says_so() -> None:
    with pytest.raises(ApiError, match=r"family \(llama\) has not learned") as caught:
        completion_prompt("a", "b", MODEL)
    assert (caught.value.code, caught.value.param) == (ErrorCode.UNSUPPORTED_PARAMETER, "suffix")
