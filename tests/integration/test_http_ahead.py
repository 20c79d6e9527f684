"""Requests that are sent ahead of the answers to those before them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.raw_http import GET, Connection, connected, post
from tests.serving import Server


@pytest.fixture
def connection(echo_server: Server) -> Iterator[Connection]:
    with connected(echo_server) as connection:
        yield connection


def test_requests_ahead_of_their_answers_are_answered_in_turn(connection: Connection) -> None:
    connection.send(b"".join(post(b'{"prompt": "%d"}' % i) for i in range(5)), GET, GET[:-10])
    assert [connection.answer().body for _ in range(5)] == [b'"%d"' % i for i in range(5)]
    assert connection.answer("GET").body == b'{"status":"ok"}'
    connection.send(GET[-10:])
    assert connection.answer("GET").body == b'{"status":"ok"}'


def test_requests_ahead_of_their_answers_are_bounded(connection: Connection) -> None:
    connection.send(GET * 10_000)
    answers = []
    while (answer := connection.answer("GET")).status == 200:
        answers.append(answer)
    assert len(answers) <= 10
    assert answer.error == (400, "invalid_http")
    assert connection.is_ended()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_a_client_that_leaves_is_missed_whatever_it_has_sent_ahead(
    slow_server: Server, stream: bool, waits: bool
) -> None:
    body = json.dumps({"prompt": "x" * 2000, "stream": stream, "max_tokens": 2000}).encode()
    slow_server.wait_until_idle()
    place, n_before = ("waiting", slow_server.ready()["slots"]) if waits else ("running", 0)

    def is_left(status: dict[str, Any]) -> bool:
        return (status["waiting"], status["running"]) == (0, n_before)

    with ExitStack() as stack:
        for _ in range(n_before):
            stack.enter_context(connected(slow_server)).send(post(body))
        slow_server.wait_until(is_left)
        with connected(slow_server) as connection:
            connection.send(post(body))
            slow_server.wait_until(lambda status: bool(status[place]))
            connection.send(post(body), GET, GET[:-5])
            assert slow_server.ready()[place] == 1
        slow_server.wait_until(is_left)
    slow_server.wait_until_idle()
