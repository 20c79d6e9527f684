"""What is refused before any worker hears of it, and the generations that a request comes to."""

import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.answer.constraint import Constraint
from gateway.answer.plan import admit, check_for_model, generations, questions_of, room_for
from gateway.ask import Ask, Limit
from gateway.dialects.chat import CHAT
from gateway.dialects.completions import COMPLETIONS
from gateway.dialects.embeddings import EMBEDDINGS
from gateway.errors import ApiError
from gateway.pool.base import PoolRefused
from shared.errors import ErrorCode
from shared.grammar import Grammar
from shared.messages import Detokenize, Generate, Prepared, Text
from tests.unit.gateway.fakes import MODEL, READY, ScriptedPool, loading


def completion(prompt: Any = "x", **body: Any) -> Ask:
    return COMPLETIONS.read({"prompt": prompt, **body})


def test_what_the_pool_refuses_is_refused() -> None:
    with pytest.raises(PoolRefused) as refused:
        admit(completion(), ScriptedPool(status=replace(READY, waiting=6)))
    assert refused.value.code is ErrorCode.QUEUE_FULL
    with pytest.raises(PoolRefused) as refused:
        admit(completion(["x"] * 100), ScriptedPool(status=loading()))
    assert refused.value.code is ErrorCode.MODEL_LOADING


def test_fan_out_has_a_limit_forever_and_one_for_now() -> None:
    admit(completion(["a", "b"], n=3), ScriptedPool())
    many = completion(n=7), completion(["x"] * 7), completion(n=10**12), completion(best_of=7)
    for ask, param in zip(many, ("n", "prompt", "n", "best_of"), strict=True):
        with pytest.raises(ApiError, match="takes 6") as caught:
            admit(ask, ScriptedPool())
        assert caught.value.param == param
    with pytest.raises(PoolRefused) as refused:
        admit(completion(n=4), ScriptedPool(status=replace(READY, waiting=3)))
    assert refused.value.code is ErrorCode.QUEUE_FULL


def check(ask: Ask) -> None:
    check_for_model(ask, MODEL)
    questions_of(ask, MODEL, None, wants_text=False)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"logit_bias": {"300": 1}}, "logit_bias", "below 300, not 300"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias", "below 300, not 999999999"),
        ({"stop_token_ids": [0, 300]}, "stop_token_ids[1]", "from 0 to 299, not 300"),
        ({"stop_token_ids": [2**70]}, "stop_token_ids[0]", "from 0 to 299"),
        ({"prompt": [0, 300]}, "prompt[1]", "from 0 to 299, not 300"),
        ({"prompt": [-1]}, "prompt[0]", "from 0 to 299, not -1"),
        ({"prompt": ["x", [2**80]]}, "prompt[1][0]", "not 1208925819614629174706176"),
        ({"prompt": [1] * 101}, "prompt", "100 tokens; 'prompt' has 101"),
    ],
)
def test_token_ids_are_of_the_model(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(ApiError, match=re.escape(said)) as caught:
        check(COMPLETIONS.read({"prompt": "x", **body}))
    assert caught.value.param == param


def test_token_ids_at_their_limits() -> None:
    body: dict[str, Any] = {"logit_bias": {"299": 1, "0": -1}, "stop_token_ids": [0, 299]}
    check(completion([299] * 100, **body))


def made(ask: Ask, *prompts: int, stop: tuple[str, ...] = ()) -> list[Generate]:
    found = [(Prepared("", (token,), stop=stop), 7) for token in prompts or (1,)]
    return generations(ask, found, Constraint(), "answer", "trace")


def test_choices_are_numbered_prompt_by_prompt() -> None:
    found = made(completion(["a", "b"], n=2, seed=5, stop=["."]), 1, 2)
    assert [each.ids for each in found] == [(1,), (1,), (2,), (2,)]
    assert [each.sampling.seed for each in found] == [5, 6, 5, 6]
    assert [each.request_id for each in found] == [f"answer-{place}" for place in range(4)]
    assert {each.stop for each in found} == {(".",)} and {each.trace_id for each in found} == {
        "trace"
    }


def test_the_best_of_several_are_found_by_log_probabilities() -> None:
    for body, logprobs in (
        ({"best_of": 2}, 0),
        ({"best_of": 2, "logprobs": 3}, 3),
        ({"best_of": 2, "n": 2}, None),
    ):
        assert [each.logprobs for each in made(completion(**body))] == [logprobs] * 2


def test_what_ends_an_answer_of_a_chat_comes_on_top_of_what_the_client_says() -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "stop": ["a", "b"]}
    (generation,) = made(CHAT.read(body), stop=("\nUser:",))
    assert generation.stop == ("a", "b", "\nUser:")
    tools = [{"type": "function", "function": {"name": "f"}}]
    # Not of what is not shown as text: the form of calls.
    (generation,) = made(CHAT.read({**body, "tools": tools}), stop=("\nUser:",))
    assert generation.stop == ("\nUser:",)


def test_a_prompt_that_cannot_fit_never_crosses() -> None:
    asked(completion("é" * 1000))
    with pytest.raises(ApiError, match=r"100 tokens.*2000 bytes.*2001") as caught:
        asked(completion("é" * 1000, suffix="."))
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    with pytest.raises(ApiError, match="101 messages"):
        asked(CHAT.read({"messages": [{"role": "user", "content": ""}] * 101}))


def asked(ask: Ask, grammar: Grammar | None = None, *, wants_text: bool = False) -> list[Any]:
    return questions_of(ask, MODEL, grammar, wants_text=wants_text)


def test_only_texts_and_chats_are_asked_about() -> None:
    first, second = asked(completion(["a", "b"], suffix="c"))
    assert (first.prompt, first.param) == (Text("a", "c"), "prompt[0]")
    assert (second.prompt, second.param) == (Text("b", "c"), "prompt[1]")
    assert asked(completion([[97], [98]])) == [Prepared("", (97,)), Prepared("", (98,))]
    (ids,) = asked(completion([97], echo=True), wants_text=True)
    assert isinstance(ids, Detokenize) and ids.ids == (97,)
    (text,) = asked(EMBEDDINGS.read({"input": "<s>"}))
    assert text.prompt == Text("<s>", parses_special=False)


GRAMMAR = Grammar("regex", "a")


def test_a_grammar_is_tried_once() -> None:
    questions = asked(completion(["a", "b"]), GRAMMAR)
    assert [question.grammar for question in questions] == [GRAMMAR, None]
    ids, trial = asked(completion([97]), GRAMMAR)
    assert isinstance(ids, Prepared) and (trial.prompt, trial.grammar) == (None, GRAMMAR)


@pytest.mark.parametrize(
    ("n_prompt", "wanted", "param", "said"),
    [
        (0, 1, "p", "the prompt is empty"),
        (100, None, "p", "has 100 in the prompt. Shorten the prompt or lower max_tokens."),
        (100, 1, "p", "has 100 in the prompt and 1 for the completion."),
        (101, 0, "p", "has 101 in the prompt. Shorten the prompt."),
        (60, 41, "max_tokens", "has 60 in the prompt and 41 for the completion."),
    ],
)
def test_what_does_not_fit_into_the_context_is_refused(
    n_prompt: int, wanted: int | None, param: str, said: str
) -> None:
    with pytest.raises(ApiError) as caught:
        room_for(Prepared("", (1,) * n_prompt), Limit(wanted, False), MODEL, "p")
    assert caught.value.param == param
    assert said in caught.value.message
    if n_prompt:
        assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


@pytest.mark.parametrize(
    ("n_prompt", "limit", "room"),
    [
        (100, Limit(0, False), 0),
        (99, Limit(1, False), 1),
        (99, Limit(250, True), 1),
        (60, Limit(None, True), 40),
        (60, Limit(7, True), 7),
    ],
)
def test_how_much_may_be_generated(n_prompt: int, limit: Limit, room: int) -> None:
    assert room_for(Prepared("", (1,) * n_prompt), limit, MODEL, "p") == room
