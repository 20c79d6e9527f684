"""A real server whose client does not read: nobody else notices, and nothing is lost."""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing

from tests.integration.raw_http import connected, post
from tests.serving import DEADLINE_S, chat, served_echo

N_TOKENS = 10_000
TEXT = "".join(f"{number:05}" for number in range(N_TOKENS // 5))


def test_a_client_that_stops_reading_holds_up_nothing_and_loses_nothing() -> None:
    with (
        served_echo("--context-length", str(2 * N_TOKENS + 10), workers=1) as server,
        closing(socket.socket()) as connection,
    ):
        # What the kernel would hold for the client is no matter here: keep it small.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(DEADLINE_S)
        connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        client = http.client.HTTPConnection("127.0.0.1")
        client.sock = connection
        body = {"prompt": TEXT, "stream": True, "max_tokens": N_TOKENS, "temperature": 0}
        client.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
        )
        response = client.getresponse()
        assert response.status == 200

        # The only worker ends its generation, and serves others.
        server.wait_until_idle()
        answer = server.http.post("/v1/chat/completions", json=chat("hello", stream=False))
        assert answer.json()["choices"][0]["message"]["content"] == "hello"

        *events, done, rest = response.read().decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
        assert "".join(choice["text"] for choice in choices) == TEXT
        assert choices[-1]["finish_reason"] == "length"
        # What waited for it was one piece of text, not an event for each token.
        assert len(choices) < N_TOKENS // 2


def test_a_client_that_takes_nothing_is_cut_and_one_that_is_slow_is_not() -> None:
    settings = ("--context-length", str(2 * N_TOKENS + 10), "--send-timeout", "1")
    body = {"prompt": TEXT, "stream": True, "max_tokens": N_TOKENS}
    with (
        served_echo(*settings) as server,
        connected(server, receive_buffer=4096) as stuck,
        connected(server, receive_buffer=1 << 16) as slow,
    ):
        slow.send(post(json.dumps(body).encode()))
        assert slow.answer_begins() == 200
        stuck.send(post(json.dumps(body).encode()))
        with ThreadPoolExecutor(1) as thread:
            # It has not seen the end of its answer.
            cut = thread.submit(server.wait_for_output, r"POST /v1/completions 499 ", "stderr")
            while not cut.done():
                assert len(slow.some(1 << 15)) == 1 << 15
                wait([cut], 0.1)
            cut.result()
        assert b"data: [DONE]" in slow.rest_of_chunks()
