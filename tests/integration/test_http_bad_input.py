"""Bad input: the right status, the one error body, and no harm done."""

import http.client

import httpx
import pytest

from tests.integration.bad_input import CASES, Case, check
from tests.serving import Server


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(echo_server: Server, case: Case) -> None:
    check(echo_server, case)


def test_bad_input_with_a_real_model(demo_server: Server) -> None:
    for case in CASES:
        check(demo_server, case)
    assert "Traceback" not in demo_server.stderr


def test_no_bad_input_is_a_mistake_of_the_server(echo_server: Server) -> None:
    # After the table above, if it ran: nothing in it made the server log an exception.
    assert "Traceback" not in echo_server.stderr


def test_max_tokens_may_be_null(echo_server: Server) -> None:
    # Not in the table: a real model would take its time for the default.
    answer = echo_server.http.post("/v1/completions", json={"prompt": "Hi", "max_tokens": None})
    assert answer.json() == "Hi"


def test_a_long_body_is_refused_before_it_is_sent(echo_server: Server) -> None:
    url = httpx.URL(echo_server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=20)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_within_the_limit_is_read(echo_server: Server) -> None:
    padding = b" " * (1 << 20)
    answer = echo_server.http.post("/v1/completions", content=b'{"prompt": "Hi"}' + padding)
    assert answer.json() == "Hi"
