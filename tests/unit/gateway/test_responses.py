"""From events to chunks and objects."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from gateway.openai import responses
from gateway.openai.folds import ObjectFold, Progress, StreamFold
from gateway.openai.translate import AnswerPlan, plan_answer
from gateway.openai.validation import chat_request, completion_request
from hypothesis import given
from hypothesis import strategies as st

from gateway import sse
from shared.messages import Delta, Finished, Prefilled
from tests.unit.gateway.fakes import CONFIG

openai_types = pytest.importorskip("openai.types")
chat_types = pytest.importorskip("openai.types.chat")


def made(chat: bool, prompts: int = 1, **body: Any) -> AnswerPlan:
    if chat:
        messages = [{"role": "user", "content": "x"}]
        request: Any = chat_request({"messages": messages, "model": "m", **body})
    else:
        request = completion_request({"prompt": "x", "model": "m", **body})
    return plan_answer(request, [("x",)] * prompts, CONFIG)


def events(*texts: str, reason: str = "stop") -> list[Progress]:
    return [
        Prefilled("r", 5, 2, 1.0),
        *(Delta("r", text, 1) for text in texts),
        Finished("r", reason, len(texts), 1.0),
    ]


def streamed(made: AnswerPlan, *arrivals: tuple[int, Progress]) -> list[Any]:
    fold = StreamFold(made)
    raw = b"".join(fold.feed(index, event) for index, event in arrivals) + fold.end()
    *blocks, done, rest = raw.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(block.startswith(b"data: {") for block in blocks)
    return [orjson.loads(block[6:]) for block in blocks]


def whole(made: AnswerPlan, *arrivals: tuple[int, Progress]) -> Any:
    fold = ObjectFold(made)
    for index, event in arrivals:
        fold.feed(index, event)
    return fold.result()


def single(*texts: str) -> list[tuple[int, Progress]]:
    return [(0, event) for event in events(*texts)]


def test_a_chat_stream() -> None:
    chunks = streamed(made(True, stream=True), *single("Hel", "lo"))
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
    fold = StreamFold(made(True, stream=True))
    prefilled, delta, _ = events("Hi")
    assert fold.feed(0, prefilled) == b""
    assert fold.feed(0, delta).count(b"data: ") == 2


@given(
    chat=st.booleans(),
    include_usage=st.booleans(),
    model=st.text(),
    pieces=st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1)), max_size=8),
)
def test_chunks_are_the_bytes_of_the_whole_objects(
    chat: bool, include_usage: bool, model: str, pieces: list[tuple[int, str]]
) -> None:
    plan = made(chat, n=3, stream=True, stream_options={"include_usage": include_usage})
    plan = replace(plan, header=replace(plan.header, model=model))
    fold = StreamFold(plan)
    begun = set()

    def event(choice: Any) -> bytes:
        chunk: Any = (responses.chat_chunk if chat else responses.text_chunk)(plan.header, [choice])
        return sse.event({**chunk, "usage": None} if include_usage else chunk)

    for index, text in pieces:
        due = b""
        if chat and index not in begun:
            due = event(responses.chat_delta(index, {"role": "assistant", "content": ""}))
        begun.add(index)
        if chat:
            due += event(responses.chat_delta(index, {"content": text}))
        else:
            due += event(responses.text_choice(index, text))
        assert fold.feed(index, Delta("r", text, 1)) == due


def test_an_empty_chat_answer_still_has_role_and_reason() -> None:
    chunks = streamed(made(True, stream=True), *single())
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {},
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_usage_is_a_last_chunk_without_choices(chat: bool) -> None:
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = streamed(made(chat, **body), *single("a", "b"))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_a_text_stream() -> None:
    chunks = streamed(made(False, stream=True), *single("Hel", "lo"))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]


def test_each_index_has_its_own_role_and_reason() -> None:
    one, two = events("a"), events("b", reason="length")
    arrivals = [(0, one[0]), (1, two[0]), (1, two[1]), (0, one[1]), (1, two[2]), (0, one[2])]
    chunks = streamed(made(True, n=2, stream=True), *arrivals)
    for index, text, reason in ((0, "a", "stop"), (1, "b", "length")):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [c["delta"].get("content") for c in mine] == ["", text, None]
        assert [c["finish_reason"] for c in mine] == [None, None, reason]


def test_a_chat_object() -> None:
    answer = whole(made(True), *single("Hel", "lo"))
    chat_types.ChatCompletion.model_validate(answer, strict=True)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == 7


def test_a_text_object() -> None:
    answer = whole(made(False), *single("Hel", "lo"))
    openai_types.Completion.model_validate(answer, strict=True)
    assert answer["choices"][0]["text"] == "Hello"


def test_a_prompt_that_choices_share_is_counted_once() -> None:
    arrivals = [(index, event) for index in range(4) for event in events("a", "b")]
    usage = whole(made(False, prompts=2, n=2), *arrivals)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 8)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4


def test_the_short_form_is_the_continuation_alone() -> None:
    assert whole(made(False, model=None), *single("Hel", "lo")) == "Hello"
    arrivals = [(index, event) for index in (1, 0) for event in events(str(index))]
    assert whole(made(False, model=None, n=2), *arrivals) == ["0", "1"]
