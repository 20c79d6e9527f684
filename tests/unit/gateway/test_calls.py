"""Chats that call tools: as a stream and as an object, from the same events."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ask import Ask
from gateway.dialects import Dialect
from shared.logprobs import Candidate, TokenLogprobs
from tests.unit.gateway import answers
from tests.unit.gateway.answers import Arrival, events, single
from worker.prompt.tools import call_text

chat_types = pytest.importorskip("openai.types.chat")

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


def made(**body: Any) -> tuple[Dialect, Ask]:
    return answers.chat(**{"tools": TOOLS, **body})


def logprobs_of(texts: Sequence[str]) -> list[answers.Logprobs]:
    """As if each letter were a token."""
    return [
        tuple(
            TokenLogprobs(Candidate(letter.encode().decode("latin-1"), -ord(letter) / 100))
            for letter in text
        )
        for text in texts
    ]


def streamed(asked: tuple[Dialect, Ask], arrivals: Sequence[Arrival]) -> list[Any]:
    chunks = answers.streamed(asked, arrivals)
    for chunk in chunks:
        chat_types.ChatCompletionChunk.model_validate(chunk, strict=True)
    return chunks


def whole(asked: tuple[Dialect, Ask], arrivals: Sequence[Arrival]) -> Any:
    answer = answers.whole(asked, arrivals)
    chat_types.ChatCompletion.model_validate(answer, strict=True)
    return answer


def folded(chunks: list[Any], index: int = 0) -> dict[str, Any]:
    """What a client puts together of the chunks of a choice, names of calls apart."""
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    assert [c["delta"].get("role") for c in choices] == ["assistant"] + [None] * (len(choices) - 1)
    *unfinished, last = [choice["finish_reason"] for choice in choices]
    assert set(unfinished) == {None}
    content, logprobs, ids = "", [], []
    calls: list[dict[str, str]] = []
    for choice in choices:
        assert "content" not in choice["delta"] or "tool_calls" not in choice["delta"]
        content += choice["delta"].get("content", "")
        if choice["logprobs"] is not None:
            logprobs += choice["logprobs"]["content"]
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] == len(calls):
                assert call["type"] == "function"
                ids.append(call["id"])
                calls.append({"name": call["function"]["name"], "arguments": ""})
            else:
                assert call["index"] == len(calls) - 1
                assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
                assert call["function"]["arguments"]
            calls[-1]["arguments"] += call["function"]["arguments"]
    assert len(set(ids)) == len(calls)
    return {"content": content, "calls": calls, "logprobs": logprobs, "finish_reason": last}


def essence(choice: dict[str, Any]) -> dict[str, Any]:
    """The same of a choice of an object."""
    message = choice["message"]
    calls = message.get("tool_calls", [])
    assert message["content"] is not None or calls
    assert len({call["id"] for call in calls}) == len(calls)
    return {
        "content": message["content"] or "",
        "calls": [call["function"] for call in calls],
        "logprobs": (choice["logprobs"] or {}).get("content", []),
        "finish_reason": choice["finish_reason"],
    }


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
def test_a_stream_says_what_an_object_says(
    text: str, cut_off: int, places: list[int], reason: str, told: bool
) -> None:
    text = text[: len(text) - cut_off] if reason == "length" else text
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    body = {"logprobs": True} if told else {}
    happened = single(events(*pieces, reason=reason, logprobs=logprobs_of(pieces) if told else ()))
    (choice,) = whole(made(**body), happened)["choices"]
    found = essence(choice)
    assert folded(streamed(made(stream=True, **body), happened)) == found
    assert "".join(entry["token"] for entry in found["logprobs"]) == (text if told else "")
    if found["finish_reason"] == "tool_calls":
        for call in found["calls"]:
            json.loads(call["arguments"])
