"""What the dialects write: streams and whole answers, from the same pieces."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.reader import Progress
from gateway.dialects import event
from shared.logprobs import Candidate, TokenLogprobs
from shared.messages import Delta, Finished, Prefilled
from tests.unit.gateway.answers import (
    HEADER,
    Answer,
    chat,
    completion,
    events,
    single,
    streamed,
    whole,
)

openai_types = pytest.importorskip("openai.types")
chat_types = pytest.importorskip("openai.types.chat")


def test_nothing_is_sent_before_the_first_text_which_comes_with_the_role() -> None:
    answer = Answer(chat(stream=True))
    prefilled, delta, _ = events("Hi")
    assert answer.send(0, prefilled) == b""
    assert answer.send(0, delta).count(b"data: ") == 2


@given(
    is_chat=st.booleans(),
    include_usage=st.booleans(),
    model=st.text(),
    pieces=st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1)), max_size=8),
)
def test_chunks_are_the_bytes_of_the_whole_objects(
    is_chat: bool, include_usage: bool, model: str, pieces: list[tuple[int, str]]
) -> None:
    asked = (chat if is_chat else completion)(
        n=3, stream=True, stream_options={"include_usage": include_usage}
    )
    answer = Answer(asked, replace(HEADER, model=model))
    begun = set()

    def chunk(index: int, **content: Any) -> bytes:
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        choice = {"index": index, **content, "logprobs": None, "finish_reason": None}
        made = {"id": HEADER.id, "object": kind, "created": 1, "model": model,
                "system_fingerprint": HEADER.system_fingerprint, "choices": [choice]}  # fmt: skip
        return event({**made, "usage": None} if include_usage else made)

    for index, text in pieces:
        due = b""
        if is_chat and index not in begun:
            due = chunk(index, delta={"role": "assistant", "content": ""})
        begun.add(index)
        due += chunk(index, delta={"content": text}) if is_chat else chunk(index, text=text)
        assert answer.send(index, Delta("r", text, 1)) == due


def token(raw: bytes, logprob: float | None = -1.5, *top: bytes) -> TokenLogprobs:
    others = [Candidate(other.decode("latin-1"), -0.5) for other in top]
    return TokenLogprobs(Candidate(raw.decode("latin-1"), logprob), tuple(others))


def prefilled(told: tuple[TokenLogprobs, ...] = ()) -> Progress:
    return Prefilled("r", 5, 2, 1.0, told)


def delta(text: str, *told: TokenLogprobs) -> Progress:
    return Delta("r", text, max(1, len(told)), told)


def finished(reason: str = "stop", tokens: int = 2) -> Progress:
    return Finished("r", reason, tokens, 1.0)


def choices(asked: Any, happened: Sequence[Progress]) -> list[Any]:
    """The choices of a stream."""
    return [chunk["choices"][0] for chunk in streamed(asked, single(happened))]


def choice_of(asked: Any, happened: Sequence[Progress]) -> Any:
    """The one choice of an object."""
    (choice,) = whole(asked, single(happened))["choices"]
    return choice


COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def test_no_log_probabilities_of_no_tokens() -> None:
    nothing = [prefilled(), finished(tokens=0)]
    assert choice_of(chat(logprobs=True), nothing)["logprobs"] == {"content": [], "refusal": None}
    empty: dict[str, list[Any]] = {column: [] for column in COLUMNS}
    assert choice_of(completion(logprobs=0), nothing)["logprobs"] == empty


def test_a_token_without_text_is_told_of() -> None:
    happened = [prefilled(), delta("a", token(b"a")), delta("", token(b"")), finished()]
    for plan in (chat(logprobs=True, stream=True), completion(logprobs=0, stream=True)):
        *_, empty, _ = choices(plan, happened)
        assert empty["logprobs"] is not None
    assert len(choice_of(chat(logprobs=True), happened)["logprobs"]["content"]) == 2


@given(st.text(min_size=1, max_size=8), st.text(max_size=12), st.data())
def test_a_stream_of_log_probabilities_says_what_an_object_says(
    echo: str, text: str, data: st.DataObject
) -> None:
    def cut(length: int) -> list[tuple[int, int]]:
        ends = sorted({*data.draw(st.sets(st.integers(0, length))), length} - {0})
        return list(zip([0, *ends], ends, strict=False))

    def tokens(content: bytes) -> tuple[TokenLogprobs, ...]:
        return tuple(token(content[a:b]) for a, b in cut(len(content)))

    deltas = [delta(text[a:b], *tokens(text[a:b].encode())) for a, b in cut(len(text))]
    happened = [prefilled(tokens(echo.encode())), *deltas, finished()]
    choice = choice_of(completion(prompt=echo, echo=True, logprobs=2), happened)
    *pieces, last = choices(completion(prompt=echo, echo=True, logprobs=2, stream=True), happened)
    assert "".join(piece["text"] for piece in pieces) == choice["text"] == echo + text
    assert last["finish_reason"] == choice["finish_reason"]
    for column in COLUMNS:
        joined = [each for piece in pieces for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]
    # A piece that begins with a token begins at its offset.
    length = 0
    for piece in pieces:
        assert piece["logprobs"]["text_offset"][0] == length
        length += len(piece["text"])


def of_likelihoods(*logprobs: float) -> list[Progress]:
    tokens = [token(b"x", logprob) for logprob in logprobs]
    return [prefilled(), *(delta("x", each) for each in tokens), finished(tokens=len(tokens))]


# By what they say: a mean of -1, of -2 and of -0.5, and nothing at all.
CANDIDATES = {"xx": (-1.9, -0.1), "x": (-2.0,), "xxx": (-0.5, -0.5, -0.5), "": ()}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("order", [["xx", "x", "xxx", ""], ["", "xxx", "x", "xx"]])
def test_the_best_are_those_of_the_likeliest_tokens(n: int, order: list[str]) -> None:
    plan = completion(n=n, best_of=4)
    arrivals = [
        (index, event)
        for index, text in enumerate(order)
        for event in of_likelihoods(*CANDIDATES[text])
    ]
    answer = whole(plan, arrivals)
    openai_types.Completion.model_validate(answer, strict=True)
    assert [choice["text"] for choice in answer["choices"]] == ["xxx", "xx", "x"][:n]
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    # All that was generated counts, and the prompt once.
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 6)


def test_the_best_of_each_prompt() -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"], "best_of": 2, "logprobs": 3}
    values = (-1.0, -2.0, -4.0, -3.0)
    arrivals = [(i, event) for i, value in enumerate(values) for event in of_likelihoods(value)]
    answer = whole(completion(**body), arrivals)
    found = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert found == [[-1.0], [-3.0]]
    assert answer["usage"]["prompt_tokens"] == 10
    assert whole(completion(**body, model=None), arrivals) == ["x", "x"]
