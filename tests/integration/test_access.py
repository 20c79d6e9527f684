"""Real servers that not everybody may use, and the clients that people have."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving import DEADLINE_S, Server, launched, long_chat

ALICE, BOB, NOBODY = "alices-long-key", "bobs-long-key", "not-a-key-of-ours"
ADMIN = "administrators-key"
ECHO = {"MODEL_TYPE": "echo", "DRAIN_TIMEOUT": "2", "LOG_LEVEL": "debug"}
PROMPT = "Tell me nothing."


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    """Three slow workers, two keys, and two requests at the same time for each."""
    with launched(
        WORKERS="3", ECHO_DELAY_MS="5", API_KEYS=f"alice:{ALICE},bob:{BOB}",
        KEY_CONCURRENT_REQUESTS="2", ADMIN_KEY=ADMIN, **ECHO,
    ) as server:  # fmt: skip
        server.wait_until_ready()
        yield server
        server.stop()
        # After all that was asked of it.
        for secret in (ALICE, BOB, ADMIN, NOBODY, PROMPT, "Traceback"):
            assert secret not in server.stdout + server.stderr
        assert "alice" in server.stderr


def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def complete(server: Server, key: str) -> Any:
    """What OpenAI's client gets for a completion: with headers; it raises what is none."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        model = client.models.list().data[0].id
        answer = client.completions.with_raw_response.create(
            model=model, prompt=PROMPT, max_tokens=50
        )
        assert answer.parse().choices[0].text == PROMPT
        return answer


def test_openais_client_gets_in_with_a_right_key_only(keyed: Server) -> None:
    for key in (ALICE, BOB):
        complete(keyed, key)
    with pytest.raises(openai.AuthenticationError) as caught:
        complete(keyed, NOBODY)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    assert keyed.http.post("/admin/reload", headers=headers(ALICE)).status_code == 401


def test_a_refusal_does_not_harm_the_connection(keyed: Server) -> None:
    # Nobody reads the body of what is refused; it must not be taken for the next request.
    body = b'{"prompt": "' + b"GET / HTTP/1.1\r\n" * 20_000 + b'"}'
    for _ in range(3):
        assert keyed.http.post("/v1/completions", content=body).status_code == 401
        assert keyed.http.get("/v1/models", headers=headers(ALICE)).is_success


def test_the_requests_of_a_key_at_the_same_time_are_bounded(keyed: Server) -> None:
    with ExitStack() as running:
        streams = []  # one that nobody holds is closed
        for _ in range(2):
            client = running.enter_context(httpx.Client(base_url=keyed.url, headers=headers(ALICE)))
            response = running.enter_context(
                client.stream("POST", "/v1/chat/completions", json=long_chat(stream=True))
            )
            streams.append(response.iter_raw())
            next(streams[-1])
        with pytest.raises(openai.RateLimitError) as caught:
            complete(keyed, ALICE)
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) > 0
        complete(keyed, BOB)
    # The clients have gone; their places are free as soon as the server has seen that.
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            complete(keyed, ALICE)
            break
        except openai.RateLimitError:
            assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# ours\nalice:{ALICE}\n")
    return path


@pytest.fixture(scope="module")
def limited(key_file: Path) -> Iterator[Server]:
    """A server with a file of keys, and few tokens and requests for each."""
    with launched(
        API_KEYS=f"@{key_file}", KEY_TOKENS_PER_MINUTE="100", KEY_REQUESTS_PER_MINUTE="10", **ECHO
    ) as server:
        server.wait_until_ready()
        yield server
        server.stop()
        assert ALICE not in server.stderr and "short" not in server.stderr


def test_tokens_and_requests_are_counted(limited: Server) -> None:
    answer = complete(limited, ALICE)
    used = answer.parse().usage.total_tokens
    assert 20 < used < 50
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert 100 - used <= left < 100
    assert answer.headers["x-ratelimit-limit-tokens"] == "100"
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(10):
            complete(limited, ALICE)
    response = caught.value.response
    assert "100 tokens per minute" in str(caught.value)
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert limited.http.get("/v1/models", headers=headers(ALICE)).is_success


def test_a_file_of_keys_is_read_again(limited: Server, key_file: Path) -> None:
    assert limited.http.get("/v1/models", headers=headers(ALICE)).is_success
    key_file.write_text(f"bob:{BOB}\n")
    assert limited.http.get("/v1/models", headers=headers(ALICE)).status_code == 401
    complete(limited, BOB)
    for content, n_valid in ((f"bob:{BOB}\nalice:short\n", 1), ("", 0)):
        key_file.write_text(content)
        answer = limited.http.get("/v1/models", headers=headers(BOB))
        assert answer.is_success == bool(n_valid)
        limited.wait_for_output(rf"valid API keys: {n_valid}\b", "stderr")


def test_a_public_address_without_keys_is_warned_of() -> None:
    with launched("--host", "0.0.0.0", **ECHO) as server:
        server.wait_until_ready()
        server.wait_for_output(r"anybody who can reach HOST=0\.0\.0\.0.*API_KEYS", "stderr")
        # A name that leads to a public address is nobody's business.
        assert server.http.get("/v1/models", headers={"host": "llm.example.org"}).is_success
        server.stop()
