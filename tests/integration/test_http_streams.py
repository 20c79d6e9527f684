"""A real server with echo workers: streams, queues, and clients that leave."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.integration.raw_http import connected, post
from tests.serving import Server, chat, long_chat, served_echo, streamed, text_of

CHATS = ("/v1/chat/completions", "/v2/chat/completions")


def running(n: int) -> Any:
    return lambda status: status["running"] == n


def waiting(n: int) -> Any:
    return lambda status: status["waiting"] == n


def test_a_full_queue_is_429_and_those_in_it_finish(slow_server: Server) -> None:
    server = slow_server
    server.wait_until_idle()
    with ThreadPoolExecutor(8) as threads, ExitStack() as long:
        streams = [long.enter_context(streamed(server, long_chat())) for _ in range(2)]
        assert all(next(stream) for stream in streams)
        queued = [
            threads.submit(server.http.post, CHATS[0], json=chat(f"q{i}", stream=i % 2 == 0))
            for i in range(8)
        ]
        server.wait_until(waiting(8))
        for stream in (True, False):
            refused = server.http.post(CHATS[0], json=chat("x", stream=stream))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.ready()["waiting"] == 8
        long.close()
        for i, future in enumerate(queued):
            answer = future.result()
            assert answer.status_code == 200
            if i % 2:
                assert answer.json()["choices"][0]["message"]["content"] == f"q{i}"
            else:
                assert answer.text.endswith('"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    server.wait_until_idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_the_queue_is_not_served(slow_server: Server, stream: bool) -> None:
    server = slow_server
    server.wait_until_idle()
    with (
        streamed(server, long_chat()) as first,
        streamed(server, long_chat()) as second,
    ):
        assert next(first) and next(second)
        with connected(server) as connection:
            connection.send(post(json.dumps(long_chat(stream=stream)).encode(), path=CHATS[0]))
            server.wait_until(waiting(1))
        status = server.wait_until(waiting(0))
        assert status["running"] == 2
    server.wait_until_idle()


def test_many_clients_at_once_get_each_their_own_answer(echo_server: Server) -> None:
    def talk(client: int) -> None:
        with httpx.Client(base_url=echo_server.url, timeout=60) as http:
            for turn in range(10):
                text = f"client {client}, turn {turn}: ä€😀"
                answer = http.post(CHATS[turn % 2], json=chat(text, stream=False))
                assert answer.status_code == 200
                assert answer.json()["choices"][0]["message"]["content"] == text
                chunks = list(http.post(CHATS[turn % 2], json=chat(text)).iter_lines())
                assert chunks[-2] == "data: [DONE]"
                events = [json.loads(c.removeprefix("data: ")) for c in chunks[:-2] if c]
                assert text_of(events) == text

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(talk, range(10)))
    echo_server.wait_until_idle()


def chunks_of_many(server: Server, body: dict[str, Any], path: str) -> list[Any]:
    with streamed(server, body, path) as stream:
        *chunks, done = stream
    assert done == "[DONE]"
    return chunks


def check_choices(chunks: list[Any], texts: list[str]) -> None:
    assert len({chunk["id"] for chunk in chunks}) == 1
    for index, text in enumerate(texts):
        of_index = [c for k in chunks for c in k["choices"] if c["index"] == index]
        assert text_of(chunks, index) == text
        assert of_index[0]["delta"] == {"role": "assistant", "content": ""}
        assert [c["finish_reason"] for c in of_index[:-1]] == [None] * (len(of_index) - 1)
        assert of_index[-1]["finish_reason"] == "stop"
        assert of_index[-1]["delta"] == {}
    assert {c["index"] for k in chunks for c in k["choices"]} == set(range(len(texts)))


def test_many_conversations_interleave_in_one_stream(slow_server: Server) -> None:
    texts = ["first conversation", "second conversation", "third"]
    conversations = [chat(text)["messages"] for text in texts]
    slow_server.wait_until_idle()
    chunks = chunks_of_many(slow_server, {"messages": conversations}, CHATS[1])
    check_choices(chunks, texts)
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    # Two workers: the first two run side by side, neither in one piece.
    first_two = [index for index in order if index < 2]
    assert first_two not in (sorted(first_two), sorted(first_two, reverse=True))


def test_a_killed_worker_is_replaced_and_its_stream_ends_with_an_error() -> None:
    with served_echo(delay_ms=20) as server:
        before = server.worker_pids()
        with streamed(server, long_chat()) as stream:
            next(stream)
            status = server.wait_until(running(1))
            (victim,) = (w["pid"] for w in status["workers"] if w["state"] == "running")
            os.kill(victim, signal.SIGKILL)
            *_, last = stream
        assert last["error"]["code"] == "worker_crashed"
        status = server.wait_until_idle()
        assert sorted(worker["restarts"] for worker in status["workers"]) == [0, 0, 1]
        assert len(set(before) & set(server.worker_pids())) == 2
        server.stop()


def test_what_is_not_there_and_what_is_not_allowed(echo_server: Server) -> None:
    http = echo_server.http
    for method, path, status, code in (
        ("GET", "/nowhere", 404, "unknown_url"),
        ("POST", "/v1/nowhere", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/v2/chat/completions", 405, "method_not_allowed"),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
    for path in ("/", "/health"):
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert get.status_code == 200 and get.content
    assert http.head("/nowhere").status_code == 404
    for path in ("/docs", "/openapi.json"):
        assert http.get(path).status_code == 200
