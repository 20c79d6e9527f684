"""A real server with echo workers: streams and queues."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

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
