"""Bad input that is not in the table of tests/golden: by the byte, and with a real model."""

import pytest

from tests.serving import Server, chat

LIMIT = 2 << 20
# Each is longer than the context of the model, and hard on a tokenizer.
TOO_LONG = ["a" * 1_000_000, " " * 1_000_000, "\0" * 300_000, "😀" * 100_000, "word " * 9000]


@pytest.mark.parametrize("place", range(len(TOO_LONG)))
def test_what_does_not_fit_into_a_real_model(demo_server: Server, place: int) -> None:
    deaths = demo_server.deaths()
    text = TOO_LONG[place]
    for path, body in (("/v1/completions", {"prompt": text}), ("/v1/chat/completions", chat(text))):
        answer = demo_server.http.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert demo_server.deaths() == deaths and "Traceback" not in demo_server.stderr


def test_a_body_may_come_in_chunks_up_to_the_limit(echo_server: Server) -> None:
    for padding, status in ((b" " * (1 << 20), 200), (b" " * LIMIT, 413)):
        parts = iter((b'{"prompt": "Hi"}', padding[:9], padding[9:]))
        answer = echo_server.http.post("/v1/completions", content=parts)
        assert answer.status_code == status
