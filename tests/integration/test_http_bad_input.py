"""Bad input that is not in the table of tests/golden: by the byte, and with a real model."""

import http.client
from typing import Any

import httpx
import pytest

from tests.serving import Server, chat

LIMIT = 2 << 20
# Each is longer than the context of the model, and hard on a tokenizer.
TOO_LONG = ["a" * 1_000_000, " " * 1_000_000, "\0" * 300_000, "😀" * 100_000, "word " * 6000]


@pytest.mark.parametrize("place", range(len(TOO_LONG)))
def test_what_does_not_fit_into_a_real_model(demo_server: Server, place: int) -> None:
    deaths = demo_server.deaths()
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": TOO_LONG[place]},
        "/v1/chat/completions": chat(TOO_LONG[place]),
    }
    for path, body in bodies.items():
        answer = demo_server.http.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert demo_server.deaths() == deaths and "Traceback" not in demo_server.stderr


def test_a_long_body_is_refused_before_it_is_sent(echo_server: Server) -> None:
    url = httpx.URL(echo_server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=20)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_may_come_in_chunks_up_to_the_limit(echo_server: Server) -> None:
    for padding, status in ((b" " * (1 << 20), 200), (b" " * LIMIT, 413)):
        parts = iter((b'{"prompt": "Hi"}', padding[:9], padding[9:]))
        answer = echo_server.http.post("/v1/completions", content=parts)
        assert answer.status_code == status
