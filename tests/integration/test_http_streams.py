"""A real server with echo workers: streams and queues."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx

from tests.serving import Server, chat, long_chat, streamed, text_of

CHATS = ("/v1/chat/completions", "/v2/chat/completions")


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
        server.wait_until(lambda status: status["waiting"] == 8)
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


def test_many_clients_at_once_get_each_their_own_answer(echo_server: Server) -> None:
    def talk(client: int) -> None:
        with httpx.Client(base_url=echo_server.url, timeout=60) as http:
            for turn in range(4):
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


def test_many_conversations_interleave_in_one_stream(slow_server: Server) -> None:
    texts = ["first conversation", "second conversation", "third"]
    slow_server.wait_until_idle()
    with streamed(
        slow_server, {"messages": [chat(text)["messages"] for text in texts]}, CHATS[1]
    ) as stream:
        *chunks, done = stream
    assert done == "[DONE]" and len({chunk["id"] for chunk in chunks}) == 1
    assert [text_of(chunks, index) for index in range(3)] == texts
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    # Two workers: the first two run side by side, neither in one piece.
    first_two = [index for index in order if index < 2]
    assert first_two not in (sorted(first_two), sorted(first_two, reverse=True))


def test_a_killed_worker_is_replaced_and_its_stream_ends_with_an_error(slow_server: Server) -> None:
    server = slow_server
    before, pids = server.wait_until_idle(), server.worker_pids()
    with streamed(server, long_chat()) as stream:
        next(stream)
        status = server.wait_until(lambda status: status["running"] == 1)
        (victim,) = (w["pid"] for w in status["workers"] if w["state"] == "running")
        os.kill(victim, signal.SIGKILL)
        *_, last = stream
    assert last["error"]["code"] == "worker_crashed"
    after = server.wait_until_idle()
    assert restarts(after) == restarts(before) + 1
    assert set(pids) - set(server.worker_pids()) == {victim}


def restarts(status: dict[str, Any]) -> int:
    return sum(worker["restarts"] for worker in status["workers"])
