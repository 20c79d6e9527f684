"""How long a request may take and wait, by the settings and by its own headers."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.integration.raw_http import connected, head
from tests.serving import Server, chat, served_echo, streamed

CHAT, CHATS = "/v1/chat/completions", "/v2/chat/completions"
IN_ALL, WAITING = "x-request-timeout", "x-queue-timeout"


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[Server]:
    """Two slow workers, and a setting that does not give a long generation its time."""
    with served_echo("--request-timeout", "1", "--drain-timeout", "2", delay_ms=20) as server:
        yield server
        server.stop()


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    content = answer.json()["error"]
    return answer.status_code, content["code"], content["param"]


def ask(server: Server, body: dict[str, Any], **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.post(CHATS, json=body, headers=given)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("lowered", [False, True])
def test_an_answer_that_takes_too_long_is_a_504(
    slow_server: Server, hasty_server: Server, n: int, lowered: bool
) -> None:
    server = slow_server if lowered else hasty_server
    headers = {IN_ALL: "0.3" if lowered else "900"}
    answer = server.http.post(CHAT, json=chat("x" * 200, n=n, stream=False), headers=headers)
    assert error(answer) == (504, "request_timeout", None)
    assert answer.headers["x-should-retry"] == "false"
    server.wait_until_idle()


def test_a_stream_that_takes_too_long_ends_with_an_error(hasty_server: Server) -> None:
    for body in (chat("x" * 200), {"messages": [chat(c * 200)["messages"] for c in "ab"]}):
        with streamed(hasty_server, body, CHATS) as stream:
            *chunks, last = stream
        assert chunks
        assert last["error"]["code"] == "request_timeout"
        hasty_server.wait_until_idle()


def check_waiting(server: Server, **headers: str) -> None:
    """With both workers busy, what waits is refused in time, and the others go on."""
    server.wait_until_idle()
    with ExitStack() as stack:
        busy = [
            stack.enter_context(streamed(server, chat(text * 4000, max_tokens=4000)))
            for text in "ab"
        ]
        assert all(next(stream) for stream in busy)
        for stream in (False, True):
            answer = ask(server, chat("x", stream=stream), **headers)
            assert error(answer) == (503, "queue_timeout", None)
            assert int(answer.headers["retry-after"]) >= 1
        in_all = ask(server, chat("x"), x_request_timeout="0.1", x_queue_timeout="900")
        assert error(in_all) == (504, "request_timeout", None)
        assert server.ready()["waiting"] == 0
        assert all(next(stream) for stream in busy)
    server.wait_until_idle()


def test_a_wait_that_takes_too_long_is_a_503(slow_server: Server) -> None:
    check_waiting(slow_server, x_queue_timeout="0.2")


def test_a_wait_can_be_bounded_by_the_settings() -> None:
    with served_echo("--queue-timeout", "0.2", delay_ms=20) as server:
        check_waiting(server, x_queue_timeout="900")


def test_a_body_that_takes_too_long_is_a_504(slow_server: Server) -> None:
    with connected(slow_server) as connection:
        connection.send(head(b"Content-Length: 1000", b"X-Request-Timeout: .2"), b"{")
        answer = connection.answer()
        assert answer.error == (504, "request_timeout")
        assert answer.closes
        assert connection.is_ended()


def test_time_that_suffices_changes_nothing(slow_server: Server) -> None:
    answer = ask(
        slow_server, chat("hello", stream=False), x_request_timeout="60.", x_queue_timeout="9"
    )
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("header", [IN_ALL, WAITING])
@pytest.mark.parametrize("value", ["", "0", "-1", "1e3", "nan", "inf", "soon", "1,5", "0x1", "٣"])
def test_only_seconds_are_times(slow_server: Server, header: str, value: str) -> None:
    content = json.dumps(chat("x")).encode()
    headers = {header.encode(): value.encode()}
    answer = slow_server.http.post(CHAT, content=content, headers=headers)
    assert error(answer) == (400, "invalid_value", header)
