"""What the dialects write, from the same pieces: a stream says what the whole answer says."""

import json
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
from tests.golden.answers import essence, folded
from tests.unit.gateway.answers import HEADER, Answer, Asked, chat, completion, streamed, whole
from worker.prompt.tools import call_text

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


def token(raw: bytes, logprob: float | None = -1.5) -> TokenLogprobs:
    return TokenLogprobs(Candidate(raw.decode("latin-1"), logprob), ())


def tokens_of(text: str) -> tuple[TokenLogprobs, ...]:
    """As if each byte were a token."""
    return tuple(token(bytes([byte]), -byte / 100) for byte in text.encode())


def prefilled(text: str = "") -> Progress:
    return Prefilled("r", 5, 2, 1.0, tokens_of(text))


def delta(text: str, tokens: Sequence[TokenLogprobs] | None = None) -> Progress:
    told = tokens_of(text) if tokens is None else tuple(tokens)
    return Delta("r", text, max(1, len(told)), told)


def finished(reason: str = "stop", tokens: int = 2) -> Progress:
    return Finished("r", reason, tokens, 1.0)


def choices(asked: Asked, happened: Sequence[Progress]) -> list[Any]:
    """The choices of a stream."""
    return [chunk["choices"][0] for chunk in streamed(asked, [(0, each) for each in happened])]


def choice_of(asked: Asked, happened: Sequence[Progress]) -> Any:
    """The one choice of a whole answer."""
    (choice,) = whole(asked, [(0, each) for each in happened])["choices"]
    return choice


def test_nothing_is_sent_before_the_first_text_which_comes_with_the_role() -> None:
    answer = Answer(chat(stream=True))
    assert answer.send(0, prefilled()) == b""
    assert answer.send(0, delta("Hi")).count(b"data: ") == 2


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


def test_a_token_without_text_is_told_of() -> None:
    happened = [prefilled(), delta("a"), delta("", [token(b"")]), finished()]
    for asked in (chat(logprobs=True, stream=True), completion(logprobs=0, stream=True)):
        *_, empty, _ = choices(asked, happened)
        assert empty["logprobs"] is not None
    assert len(choice_of(chat(logprobs=True), happened)["logprobs"]["content"]) == 2
    nothing = choice_of(chat(logprobs=True), [prefilled(), finished(tokens=0)])
    assert nothing["logprobs"] == {"content": [], "refusal": None}


@given(st.text(min_size=1, max_size=8), st.lists(st.text(max_size=8), max_size=4))
def test_a_streamed_completion_says_what_the_whole_one_says(echo: str, texts: list[str]) -> None:
    happened = [prefilled(echo), *map(delta, texts), finished()]
    body: dict[str, Any] = {"prompt": echo, "echo": True, "logprobs": 2}
    choice = choice_of(completion(**body), happened)
    pieces = choices(completion(**body, stream=True), happened)
    assert folded(pieces) == essence(choice)
    assert choice["text"] == echo + "".join(texts)
    # A piece that begins with a token begins at its offset.
    length = 0
    for piece in pieces:
        if piece["logprobs"] and piece["logprobs"]["text_offset"]:
            assert piece["logprobs"]["text_offset"][0] == length
        length += len(piece["text"])


arguments = st.dictionaries(
    st.sampled_from(['"', "}", "é", "</tool_call>"]),
    st.integers(0, 9) | st.text('a}"\\é\n', max_size=4),
    max_size=2,
)
texts = st.tuples(
    st.sampled_from(["", "So:", "So:\n\n", "a < b <tool", "日本 "]),
    st.lists(st.builds(call_text, st.sampled_from("fg"), arguments), max_size=3),
).map(lambda parts: parts[0] + "\n".join(parts[1]))


@given(
    texts,
    st.integers(0, 40),
    st.lists(st.integers(0, 400)),
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_a_streamed_chat_says_what_the_whole_one_says(
    text: str, cut_off: int, places: list[int], reason: str, told: bool
) -> None:
    text = text[: len(text) - cut_off] if reason == "length" else text
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    deltas = [delta(piece, None if told else ()) for piece in pieces]
    happened = [prefilled(), *deltas, finished(reason)]
    body: dict[str, Any] = {"tools": TOOLS, "logprobs": told or None}
    choice = choice_of(chat(**body), happened)
    assert folded(choices(chat(**body, stream=True), happened)) == essence(choice)
    if told:
        numbers = [byte for entry in choice["logprobs"]["content"] for byte in entry["bytes"]]
        assert bytes(numbers).decode() == text
    if choice["finish_reason"] == "tool_calls":
        calls = choice["message"]["tool_calls"]
        assert len({call["id"] for call in calls}) == len(calls)
        for call in calls:
            json.loads(call["function"]["arguments"])


def arrivals(likelihoods: Sequence[Sequence[float]]) -> list[tuple[int, Progress]]:
    """What happens to generations of as many tokens as there are log probabilities."""
    return [
        (index, each)
        for index, values in enumerate(likelihoods)
        for each in (
            prefilled(),
            *(delta("x", [token(b"x", value)]) for value in values),
            finished(tokens=len(values)),
        )
    ]


# By what they say: a mean of -1, of -2 and of -0.5, and nothing at all.
CANDIDATES = {"xx": (-1.9, -0.1), "x": (-2.0,), "xxx": (-0.5, -0.5, -0.5), "": ()}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("order", [["xx", "x", "xxx", ""], ["", "xxx", "x", "xx"]])
def test_the_best_are_those_of_the_likeliest_tokens(n: int, order: list[str]) -> None:
    happened = arrivals([CANDIDATES[text] for text in order])
    answer = whole(completion(n=n, best_of=4), happened)
    assert [choice["text"] for choice in answer["choices"]] == ["xxx", "xx", "x"][:n]
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    # All that was generated counts, and the prompt once.
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 6)


def test_the_best_of_each_prompt() -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"], "best_of": 2, "logprobs": 3}
    happened = arrivals([(-1.0,), (-2.0,), (-4.0,), (-3.0,)])
    answer = whole(completion(**body), happened)
    found = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert found == [[-1.0], [-3.0]]
    assert answer["usage"]["prompt_tokens"] == 10
    assert whole(completion(**body, model=None), happened) == ["x", "x"]
