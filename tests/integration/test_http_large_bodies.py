"""A real server with large bodies that arrive slowly: there is memory for so many at a time."""

import http.client
import json
import time
from contextlib import ExitStack, closing

from tests.serving import DEADLINE_S, Server, chat

PATH = "/v2/chat/completions"
MOST = 10
"""Two workers and a queue of 8."""
LARGE = json.dumps({"messages": [{"role": "user", "content": ""}] * 9900}).encode()
ARRIVED = 100_000


def begun(server: Server, request_id: str) -> http.client.HTTPConnection:
    """A connection on which a part of a large body has been sent."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=DEADLINE_S)
    connection.putrequest("POST", PATH)
    for name, value in (
        ("content-type", "application/json"),
        ("content-length", str(len(LARGE))),
        ("x-request-id", request_id),
    ):
        connection.putheader(name, value)
    connection.endheaders(LARGE[:ARRIVED])
    return connection


def refused(server: Server) -> bool:
    """Whether one more large body is refused; if it is, by the right answer."""
    with closing(begun(server, "more")) as connection:
        connection.send(LARGE[ARRIVED:])
        response = connection.getresponse()
        code = json.loads(response.read())["error"]["code"]
        if response.status == 429:
            assert (code, response.headers["retry-after"]) == ("queue_full", "1")
            return True
        assert (response.status, code) == (400, "context_length_exceeded")
        return False


def test_large_bodies_that_arrive_have_a_bound(echo_server: Server) -> None:
    server = echo_server
    server.wait_until_idle()
    with ExitStack() as stack:
        held = [
            stack.enter_context(closing(begun(server, f"held-{number}")))
            for number in range(MOST - 1)
        ]
        with closing(begun(server, "leaver")):
            deadline_s = time.monotonic() + DEADLINE_S
            while not refused(server):  # until all that was sent has arrived
                assert time.monotonic() < deadline_s
            # What is little is not held up by it.
            answer = server.http.post(PATH, json=chat("hello", stream=False))
            assert answer.json()["choices"][0]["message"]["content"] == "hello"
        server.wait_for_output(r" 499 .* ms leaver\n", "stderr")
        assert not refused(server), "the one that left has made room"
        for each in held:
            each.send(LARGE[ARRIVED:])
            response = each.getresponse()
            code = json.loads(response.read())["error"]["code"]
            assert (response.status, code) == (400, "context_length_exceeded")
    server.wait_until_idle()
