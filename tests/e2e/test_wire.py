"""The demo model over HTTP: what a stream is cut into, and that it is the whole answer."""

import json
from typing import Any

import pytest

from tests.serving import Server, chat, streamed, text_of

PARIS = "What is the capital of France?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
CHATS = ("/v1/chat/completions", "/v2/chat/completions")


def stream_of(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    """The chunks of a stream, whose framing must be exact."""
    answer = server.http.post(path, json={**body, "stream": True})
    assert answer.status_code == 200
    *blocks, done, rest = answer.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(block.startswith(b"data: {") and b"\n" not in block for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


@pytest.mark.parametrize("path", CHATS)
def test_a_streamed_chat(demo_server: Server, path: str) -> None:
    chunks = stream_of(demo_server, path, chat(PARIS, **GREEDY))
    assert {chunk["model"] for chunk in chunks} == {demo_server.model}
    first, *middle, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert last["delta"] == {} and last["finish_reason"] == "stop"
    # Piece by piece, and none of them empty.
    assert len(middle) > 3 and all(choice["delta"]["content"] for choice in middle)
    assert "Paris" in text_of(chunks)
    whole = demo_server.http.post(path, json=chat(PARIS, **GREEDY, stream=False)).json()
    assert whole["choices"][0]["message"]["content"] == text_of(chunks)


def test_a_streamed_completion(demo_server: Server) -> None:
    body = {"prompt": "Once upon a time", **GREEDY}
    chunks = stream_of(demo_server, "/v1/completions", body)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text and demo_server.http.post("/v1/completions", json=body).json() == text


def test_many_chats(demo_server: Server) -> None:
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
    assert order != sorted(order), "they run side by side"
