"""What is refused before any worker hears of it, and the generations that a request comes to."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.answer.constraint import Constraint
from gateway.answer.plan import admit, generations, questions_of
from gateway.ask import Ask
from gateway.dialects.chat import CHAT
from gateway.dialects.completions import COMPLETIONS
from gateway.dialects.embeddings import EMBEDDINGS
from gateway.errors import ApiError
from gateway.pool.base import PoolRefused
from shared.errors import ErrorCode
from shared.grammar import Grammar
from shared.messages import Detokenize, Generate, Prepared, Text
from tests.unit.gateway.fakes import MODEL, READY, ScriptedPool


def completion(prompt: Any = "x", **body: Any) -> Ask:
    return COMPLETIONS.read({"prompt": prompt, **body})


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
