"""A real server with large bodies, which are read one after another beside the event loop."""

import http.client
import json
from contextlib import ExitStack, closing

from tests.serving import DEADLINE_S, Server, chat

PATH = "/v2/chat/completions"
MOST = 10
"""Two workers and a queue of 8."""
PARTS = [{"type": "text", "text": ""}] * 3
LARGE = json.dumps({"messages": [{"role": "user", "content": PARTS}] * 9900}).encode()


def sent(server: Server, request_id: str) -> http.client.HTTPConnection:
    """A connection on which a large request has been sent."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=DEADLINE_S)
    headers = {"content-type": "application/json", "x-request-id": request_id}
    connection.request("POST", PATH, LARGE, headers)
    return connection


def test_large_bodies_have_a_bound_and_those_whose_client_left_are_dropped(
    echo_server: Server,
) -> None:
    server = echo_server
    server.wait_until_idle()
    with ExitStack() as stack:
        held = [
            stack.enter_context(closing(sent(server, f"held-{number}")))
            for number in range(MOST - 1)
        ]
        with closing(sent(server, "leaver")):
            with closing(sent(server, "refused")) as connection:
                refused = connection.getresponse()
                assert refused.status == 429
                assert refused.headers["retry-after"] == "1"
                assert json.loads(refused.read())["error"]["code"] == "queue_full"
            # What is little is not held up by it.
            answer = server.http.post(PATH, json=chat("hello", stream=False))
            assert answer.json()["choices"][0]["message"]["content"] == "hello"
        # It does not wait for those before it.
        server.wait_for_output(r" 499 .* ms leaver\n", "stderr")
        assert f" ms held-{MOST - 2}" not in server.stderr
        for each in held:
            response = each.getresponse()
            error = json.loads(response.read())["error"]
            assert (response.status, error["code"]) == (400, "context_length_exceeded")
    # There is room again.
    with closing(sent(server, "later")) as connection:
        assert connection.getresponse().status == 400
    server.wait_until_idle()
