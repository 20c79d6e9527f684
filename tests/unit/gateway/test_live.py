"""Through real sockets: clients that leave, and OpenAI's own client."""

import http.client
import json
import logging
import socket
from typing import Any

import httpx
import pytest

from tests.unit.gateway.fakes import ScriptedPool, deltas, failed, prefilled, served

DEADLINE = 10
USER = {"role": "user", "content": "Hi"}


def send(port: int, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and keep the connection."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("texts", [[], ["a"]], ids=["queued", "midway"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_cancels_its_generations(
    path: str, stream: bool, texts: list[str], n: int, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ScriptedPool(lambda request: [*deltas(request, *texts), None])
    caplog.set_level(logging.INFO)
    with served(pool) as port:
        body = {"prompt": "x", "messages": [USER], "stream": stream, "n": n}
        with send(port, path, body) as connection:
            assert pool.waiting.wait(DEADLINE)
            if stream and texts:
                assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert pool.cancellation.wait(DEADLINE)
    assert len(pool.cancelled) == n
    lines = [r.getMessage() for r in caplog.records if r.name == "gateway.access"]
    assert [line.startswith(f"POST {path} 499 ") for line in lines] == [True]
    # The advice on the chat format comes once in a process, in whichever test is the first.
    records = [record for record in caplog.records if record.name != "gateway.chat.rendering"]
    assert not [record for record in records if record.levelno >= logging.WARNING]


def test_an_error_in_mid_stream_ends_the_response_properly() -> None:
    pool = ScriptedPool(lambda request: [*deltas(request, "a"), failed(request)])
    with served(pool) as port:
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions", json={"messages": [USER]}
        )
        assert "worker_crashed" in response.text and "[DONE]" not in response.text


def test_a_body_that_is_too_long_is_refused_before_it_is_sent() -> None:
    with served(ScriptedPool()) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", str(10**9))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_the_official_client_reads_every_form() -> None:
    openai = pytest.importorskip("openai")
    with (
        served(ScriptedPool()) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-") as client,
    ):
        model = client.models.list().data[0].id
        assert client.models.retrieve(model).id == model == "org/model"
        ask: dict[str, Any] = {"model": model, "messages": [USER]}
        answer = client.chat.completions.create(**ask, n=2, stop=None, max_tokens=None)
        assert [choice.message.content for choice in answer.choices] == ["Hello", "Hello"]
        assert answer.usage.prompt_tokens == 5
        assert answer._request_id
        options = {"include_usage": True}
        with client.chat.completions.create(**ask, stream=True, stream_options=options) as stream:
            *chunks, last = stream
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello"
        assert last.usage.completion_tokens == 2
        text = client.completions.create(model=model, prompt=["x", "y"])
        assert [choice.text for choice in text.choices] == ["Hello", "Hello"]
        with client.completions.create(model=model, prompt="x", stream=True) as stream:
            assert "".join(chunk.choices[0].text for chunk in stream) == "Hello"


def test_the_official_client_reads_errors() -> None:
    openai = pytest.importorskip("openai")
    pool = ScriptedPool(lambda r: [prefilled(r), *deltas(r, "a"), failed(r)])
    with (
        served(pool) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-") as client,
    ):
        ask: dict[str, Any] = {"model": "org/model", "messages": [USER]}
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(**ask, temperature=3)
        assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-4", messages=[USER])
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**ask)
        assert len(pool.requests) == 1  # not repeated
        with (
            client.chat.completions.create(**ask, stream=True) as stream,
            pytest.raises(openai.APIError) as broken,
        ):
            list(stream)
        assert broken.value.code == "worker_crashed"
