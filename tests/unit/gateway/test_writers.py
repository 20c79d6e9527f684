"""What the dialects write: streams and whole answers, from the same pieces."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.reader import Progress
from gateway.dialects import event
from gateway.errors import ApiError
from shared.errors import ErrorCode
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
MAKERS = pytest.mark.parametrize("asked", [chat, completion])


def test_a_chat_stream() -> None:
    chunks = streamed(chat(stream=True), single(events("Hel", "lo")))
    for chunk in chunks:
        chat_types.ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({}, "stop"),
        )
    ]


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


def test_an_empty_chat_answer_still_has_role_and_reason() -> None:
    chunks = streamed(chat(stream=True), single(events()))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {},
    ]


@MAKERS
def test_usage_is_a_last_chunk_without_choices(asked: Any) -> None:
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = streamed(asked(**body), single(events("a", "b")))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_a_text_stream() -> None:
    chunks = streamed(completion(stream=True), single(events("Hel", "lo")))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]


def test_each_index_has_its_own_role_and_reason() -> None:
    one, two = events("a"), events("b", reason="length")
    arrivals = [(0, one[0]), (1, two[0]), (1, two[1]), (0, one[1]), (1, two[2]), (0, one[2])]
    chunks = streamed(chat(n=2, stream=True), arrivals)
    for index, text, reason in ((0, "a", "stop"), (1, "b", "length")):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [c["delta"].get("content") for c in mine] == ["", text, None]
        assert [c["finish_reason"] for c in mine] == [None, None, reason]


def test_a_chat_object() -> None:
    answer = whole(chat(), single(events("Hel", "lo")))
    chat_types.ChatCompletion.model_validate(answer, strict=True)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == 10


def test_a_text_object() -> None:
    answer = whole(completion(), single(events("Hel", "lo")))
    openai_types.Completion.model_validate(answer, strict=True)
    assert answer["choices"][0]["text"] == "Hello"


def test_a_prompt_that_choices_share_is_counted_once() -> None:
    arrivals = [(index, event) for index in range(4) for event in events("a", "b")]
    usage = whole(completion(prompt=["a", "b"], n=2), arrivals)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 8)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4


def test_the_short_form_is_the_continuation_alone() -> None:
    assert whole(completion(model=None), single(events("Hel", "lo"))) == "Hello"
    arrivals = [(index, event) for index in (1, 0) for event in events(str(index))]
    assert whole(completion(model=None, n=2), arrivals) == ["0", "1"]


@MAKERS
def test_a_stream_that_fails_ends_with_the_error(asked: Any) -> None:
    failed = Answer(asked(stream=True)).writer.failed(ApiError(ErrorCode.WORKER_CRASHED, "Why."))
    error = {"message": "Why.", "type": "server_error", "param": None, "code": "worker_crashed"}
    assert failed == event({"error": error})


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
LOGPROBS = [
    prefilled(),
    delta("Hi", token(b"H", -1.5, b"h"), token(b"i", -0.25, b"i")),
    delta("é", token(b"\xc3"), token(b"\xa9")),
    finished(tokens=4),
]


def test_log_probabilities_of_a_chat() -> None:
    choice = choice_of(chat(logprobs=True, top_logprobs=1), LOGPROBS)
    entries = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[72], [105], [0xC3], [0xA9]]
    assert [entry["logprob"] for entry in entries] == [-1.5, -0.25, -1.5, -1.5]
    assert entries[0]["top_logprobs"] == [{"token": "h", "logprob": -0.5, "bytes": [104]}]
    assert choice["logprobs"]["refusal"] is None
    role, *pieces, last = choices(chat(logprobs=True, top_logprobs=1, stream=True), LOGPROBS)
    assert role["logprobs"] is None and last["logprobs"] is None
    assert [e for piece in pieces for e in piece["logprobs"]["content"]] == entries
    assert [piece["delta"]["content"] for piece in pieces] == ["Hi", "é"]


def test_log_probabilities_of_a_completion() -> None:
    choice = choice_of(completion(logprobs=1), LOGPROBS)
    assert choice["logprobs"] == {
        "tokens": ["H", "i", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-1.5, -0.25, -1.5, -1.5],
        "top_logprobs": [
            {"h": -0.5, "H": -1.5}, {"i": -0.25}, {"bytes:\\xc3": -1.5}, {"bytes:\\xa9": -1.5}
        ],
        "text_offset": [0, 1, 2, 2],
    }  # fmt: skip
    *pieces, last = choices(completion(logprobs=1, stream=True), LOGPROBS)
    assert last["logprobs"] is None
    for column in COLUMNS:
        joined = [each for piece in pieces for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]


@MAKERS
def test_log_probabilities_only_if_asked_for(asked: Any) -> None:
    happened = [prefilled(), delta("Hi"), finished()]
    found = [*choices(asked(stream=True), happened), choice_of(asked(), happened)]
    assert all(choice["logprobs"] is None for choice in found)


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


ECHO = "Aé"
ECHOED = (token(b"A", None), token(b"\xc3"), token(b"\xa9"))


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_prompt_comes_first(logprobs: int | None) -> None:
    told = () if logprobs is None else ECHOED
    after = () if logprobs is None else (token(b"B"), token(b"C"))
    happened = [prefilled(told), delta("BC", *after), finished()]
    choice = choice_of(completion(prompt=ECHO, echo=True, logprobs=logprobs), happened)
    assert choice["text"] == "AéBC"
    pieces = choices(completion(prompt=ECHO, echo=True, logprobs=logprobs, stream=True), happened)
    assert [piece["text"] for piece in pieces] == ["Aé", "BC", ""]
    if logprobs is None:
        assert choice["logprobs"] is None
        assert all(piece["logprobs"] is None for piece in pieces)
        return
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 3]
    assert choice["logprobs"]["token_logprobs"] == [None, *[-1.5] * 4]
    assert choice["logprobs"]["top_logprobs"][0] is None
    for column in COLUMNS:
        joined = [each for piece in pieces[:2] for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]


def test_a_prompt_alone() -> None:
    happened = [prefilled(ECHOED), finished("length", tokens=0)]
    choice = choice_of(completion(prompt=ECHO, echo=True, logprobs=0, max_tokens=0), happened)
    assert (choice["text"], choice["finish_reason"]) == (ECHO, "length")
    assert len(choice["logprobs"]["tokens"]) == 3
    text, last = choices(
        completion(prompt=ECHO, echo=True, logprobs=0, max_tokens=0, stream=True), happened
    )
    assert (text["text"], last["text"], last["finish_reason"]) == (ECHO, "", "length")
    assert text["logprobs"] == choice["logprobs"]


def test_the_short_form_with_its_prompt_is_text_alone() -> None:
    happened = [(0, event) for event in (prefilled(), delta("c"), finished())]
    assert whole(completion(prompt="ab", echo=True, model=None), happened) == "abc"


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


def test_as_many_as_are_given_are_all_given_in_order() -> None:
    plan = completion(n=2, best_of=2)
    arrivals = [(i, e) for i, v in enumerate((-2.0, -1.0)) for e in of_likelihoods(v)]
    assert len(whole(plan, arrivals)["choices"]) == 2
