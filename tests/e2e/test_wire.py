"""The very bytes of the demo model's answers, in both dialects."""

import json
from typing import Any

import pytest

from tests.serving import Server, chat, streamed, text_of

PARIS = "What is the capital of France?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
CHATS = ("/v1/chat/completions", "/v2/chat/completions")


def stream_of(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    """The chunks of a stream, whose framing must be exact."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    *blocks, done, rest = answer.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = []
    for block in blocks:
        assert block.startswith(b"data: {") and b"\n" not in block
        chunks.append(json.loads(block[6:]))
    for field in ("id", "created", "model", "object", "system_fingerprint"):
        assert len({chunk[field] for chunk in chunks}) == 1, field
    assert isinstance(chunks[0]["created"], int)
    assert chunks[0]["model"] == server.model
    return chunks


@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize("openai", [True, False])
def test_a_streamed_chat(demo_server: Server, path: str, openai: bool) -> None:
    dialect = {"model": demo_server.model, "stream": True} if openai else {}
    chunks = stream_of(demo_server, path, chat(PARIS, **GREEDY, **dialect))
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert all("usage" not in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == len(chunks)
    first, *middle, last = choices
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert last["delta"] == {} and last["finish_reason"] == "stop"
    for choice in (first, *middle):
        assert choice["finish_reason"] is None and choice["logprobs"] is None
    assert middle and all(list(choice["delta"]) == ["content"] for choice in middle)
    assert all(choice["delta"]["content"] for choice in middle)
    assert "Paris" in text_of(chunks)
    whole = demo_server.http.post(path, json=chat(PARIS, **GREEDY, stream=False)).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == text_of(chunks)


def test_a_streamed_completion(demo_server: Server) -> None:
    body = {"prompt": "Once upon a time", **GREEDY}
    chunks = stream_of(demo_server, "/v1/completions", {**body, "stream": True})
    assert chunks[0]["id"].startswith("cmpl-")
    assert chunks[0]["object"] == "text_completion"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text and demo_server.http.post("/v1/completions", json=body).json() == text
    openai = {**body, "model": demo_server.model}
    whole = demo_server.http.post("/v1/completions", json=openai).json()
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [
        {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
    ]
    assert whole["usage"]["completion_tokens"] == GREEDY["max_tokens"]


def test_usage_comes_last_and_only_when_asked_for(demo_server: Server) -> None:
    body = chat(PARIS, **GREEDY, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream_of(demo_server, CHATS[0], body)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["prompt_tokens"] > 10 and 0 < usage["completion_tokens"] <= 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_default_of_max_tokens_is_that_of_the_dialect(demo_server: Server) -> None:
    body = {"prompt": "Once upon a time, in a land far away,", "temperature": 0}
    openai = {**body, "model": demo_server.model}
    usage = demo_server.http.post("/v1/completions", json=openai).json()["usage"]
    assert usage["completion_tokens"] == 16
    counted = demo_server.http.post("/v1/completions", json={**body, "stream": False}).json()
    assert counted["usage"]["completion_tokens"] == 250


def test_many_chats_on_the_demo_model(demo_server: Server) -> None:
    questions = [PARIS, "Write one sentence about dogs.", "Count from one to ten."]
    body: dict[str, Any] = {
        "messages": [chat(question)["messages"] for question in questions],
        "max_tokens": 32,
        "temperature": 0,
    }
    with streamed(demo_server, body, CHATS[1]) as stream:
        *chunks, done = stream
    assert done == "[DONE]"
    whole = demo_server.http.post(CHATS[1], json={**body, "stream": False}).json()
    alone = [
        demo_server.http.post(CHATS[0], json=chat(q, **GREEDY | {"max_tokens": 32}, stream=False))
        for q in questions
    ]
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in alone]
    assert [choice["message"]["content"] for choice in whole["choices"]] == texts
    assert [text_of(chunks, index) for index in range(3)] == texts
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order)
    for index in range(3):
        of_index = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [choice["finish_reason"] is None for choice in of_index[:-1]].count(False) == 0
        assert of_index[-1]["finish_reason"] in ("stop", "length")
