"""Only a stream that came to its proper end counts as complete; all else says what was wrong."""

import json
import socket
import threading
from typing import Any

import pytest

from scripts.client import Answer, Connection, Ending, play, request
from scripts.transcript import Outcome, outcome, read

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}
ERROR = {"error": {"message": "no", "type": "server_error", "code": "worker_died"}}
CHAT = "/v1/chat/completions"


def content(text: str, name: str = "content") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {name: text}, "finish_reason": None}]}


def answer(status: int, *pieces: bytes, kind: str = "application/json") -> Answer:
    """An answer of which a piece came each second from second 1 on."""
    headers = {"content-type": kind, "retry-after": "3"}
    timed = [(float(at), piece) for at, piece in enumerate(pieces, 1)]
    return Answer(0.0, 0.0, len(pieces) + 0.5, "complete", "", status, headers, timed)


def stream(*events: dict[str, Any] | str) -> Answer:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return answer(200, *(f"data: {text}\n\n".encode() for text in texts), kind="text/event-stream")


def streamed(*events: dict[str, Any] | str) -> Outcome:
    return outcome("x", stream(*events), CHAT)


def test_a_complete_chat() -> None:
    found = streamed(ROLE, content("a"), content("b"), END, USAGE, "[DONE]")
    assert (found.kind, found.code, found.text) == ("completed", "", "ab")
    # The chunk that only tells the role is not the first text.
    assert found.content_s == (2.0, 3.0)
    assert (found.ttft_s, found.e2el_s, found.gaps_s) == (2.0, 6.5, [1.0])
    assert found.tpot_s == pytest.approx((6.5 - 2.0) / 4)
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (7, 3, 5)


def test_without_usage_chunks_are_counted_thoughts_too() -> None:
    found = streamed(content("a", "reasoning_content"), content("b"), END, "[DONE]")
    assert (found.kind, found.text, found.finish_reason) == ("completed", "ab", "stop")
    assert found.completion_tokens == 2


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([content("a"), END], "missing_done"),
        ([content("a"), "[DONE]"], "missing_finish_reason"),
        ([], "missing_finish_reason"),
        ([content("a"), ERROR], "worker_died"),
        ([content("a"), END, ERROR, "[DONE]"], "worker_died"),
        ([{"error": "text"}, "[DONE]"], "error_event"),
        ([{"error": {"message": "m", "type": "server_error", "code": None}}], "server_error"),
        (["{broken"], "disorder"),
        (["[1]"], "disorder"),
        ([content("a"), END, content("b"), "[DONE]"], "disorder"),
        ([content("a"), END, "[DONE]", "[DONE]"], "disorder"),
    ],
)
def test_a_stream_that_ends_otherwise_has_failed(events: list[Any], code: str) -> None:
    found = streamed(*events)
    assert (found.kind, found.code) == ("failed", code)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (429, json.dumps(ERROR), "refused", "429"),
        (503, json.dumps(ERROR), "unavailable", "503"),
        (500, json.dumps(ERROR), "failed", "worker_died"),
        (404, "not here", "failed", "http_404"),
        (422, '{"detail": []}', "failed", "http_422"),
        (200, "{}", "failed", "not_a_stream"),
    ],
)
def test_other_answers(status: int, body: str, kind: str, code: str) -> None:
    found = outcome("x", answer(status, body.encode()), CHAT)
    assert (found.kind, found.code) == (kind, code)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_any_cut_gives_the_same_events(end: bytes) -> None:
    lines = [
        b": comment",
        b'data: {"choices": [{"index": 0,',
        b'data:"text": "\xf0\x9f\x99\x82"}]}',
    ]
    text = end.join([*lines, b"", b"event: x", b"", b"id: 1", b"data: [DONE]", b"", b""])
    for cut in range(len(text)):
        whole = answer(200, text[:cut], text[cut:], kind="text/event-stream")
        found = read(whole, "completion", is_stream=True)
        assert (found.texts, found.is_done, found.disorder) == ({0: "🙂"}, True, [])
    cut_off = answer(200, text[:-1], kind="text/event-stream")
    assert "empty line" in read(cut_off, "completion", is_stream=True).disorder[0]


RESPONSES = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello": b"Hello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n": b"",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nHe\r\n0\r\n\r\n": b"He",
    b"HTTP/1.1 204 No Content\r\n\r\n": b"",
}


@pytest.mark.parametrize("response", RESPONSES)
def test_the_end_of_a_response_is_seen_at_once(response: bytes) -> None:
    ending, found = Ending(), Answer(0.0)
    for at in range(len(response)):
        piece = response[at : at + 1]
        found.raw.append((float(at), piece))
        assert ending.feed(piece) == (at == len(response) - 1)
    found.finish("complete")
    assert (found.end, found.body) == ("complete", RESPONSES[response])


@pytest.mark.parametrize(
    "raw", [b"", b"Hello\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]
)
def test_what_is_no_whole_response_is_broken(raw: bytes) -> None:
    found = Answer(0.0, raw=[(0.0, raw)] if raw else [])
    found.finish("complete")
    assert found.end == "broken"
    found = Answer(0.0, raw=[(0.0, raw)] if raw else [])
    found.finish("left")
    assert found.end == "left"


def test_a_connection_is_kept_and_found_closed() -> None:
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            first, _ = listener.accept()
            with first:  # two answers, then it closes the idle connection
                for _ in range(2):
                    first.recv(1 << 16)
                    first.sendall(response + b"{}")
            second, _ = listener.accept()
            with second:
                second.recv(1 << 16)
                second.sendall(response + b"7")  # and it goes

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        connection = Connection(f"http://127.0.0.1:{port}/")
        assert [connection.get("/a"), connection.post("/b", {}).json()] == [{}, {}]
        left = Answer(0.0)
        connection.exchange(left, "POST", "/c", b"{}")
        assert left.end == "broken"
        thread.join()
    (nobody,) = [Answer(0.0)]
    connection.exchange(nobody, "GET", "/")
    assert (nobody.end, nobody.why) == ("not_connected", "connection_refused")


def test_many_at_once_are_played_to_their_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted = [listener.accept()[0] for _ in range(3)]
            for number, each in enumerate(reversed(accepted)):
                with each:
                    each.recv(1 << 16)
                    if number < 2:
                        each.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)

        thread = threading.Thread(target=serve)
        thread.start()
        requests = [request("POST", "/", b"{}")] * 3
        answers = play(listener.getsockname()[1], requests, 10.0)
        thread.join()
    assert [(each.end, each.body) for each in answers] == [
        ("broken", b""), ("complete", b"1"), ("complete", b"0"),
    ]  # fmt: skip


def test_what_is_no_address_is_refused() -> None:
    for url in ("localhost:8000", "ftp://x", "http://"):
        with pytest.raises(ValueError, match="write http://HOST:PORT"):
            Connection(url)
