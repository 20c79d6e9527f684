"""Tokens, templates and embeddings of a running server, whatever else it does."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx

from tests.serving import Server, chat, streamed

HELLO = "Hé"
IDS = [72, 195, 169]


def tokens_of(server: Server, text: str) -> Any:
    answer = server.http.post("/tokenize", json={"content": text})
    assert answer.status_code == 200, answer.text
    return answer.json()["tokens"]


def embeddings(server: Server, given: Any) -> list[Any]:
    answer = server.http.post("/v1/embeddings", json={"input": given})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


def test_tokens_while_all_workers_are_busy(slow_server: Server) -> None:
    with ExitStack() as stack:
        bodies = [chat(f"{i}{'x' * 400}", max_tokens=400) for i in range(2)]
        streams = [stack.enter_context(streamed(slow_server, body)) for body in bodies]
        assert slow_server.ready()["running"] == len(streams)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda i: tokens_of(slow_server, f"{HELLO}{i}"), range(8)))
        assert answers == [[*IDS, 48 + i] for i in range(8)]
        assert slow_server.ready()["running"] == 2
    slow_server.wait_until_idle()


def test_embeddings_of_many_texts(echo_server: Server) -> None:
    texts = [f"text {i}" for i in range(40)]  # more than run and wait together
    singly = [embeddings(echo_server, text)[0] for text in texts]
    assert embeddings(echo_server, texts) == singly
    echo_server.wait_until_idle()
    usage = echo_server.http.post("/v1/embeddings", json={"input": texts}).json()["usage"]
    n_tokens = sum(map(len, texts))
    assert usage == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def test_embeddings_are_logged_and_counted(echo_server: Server) -> None:
    name = "embeddings-in-the-log"
    echo_server.http.post(
        "/v1/embeddings", json={"input": ["ab", "c"]}, headers={"x-request-id": name}
    )
    line = echo_server.wait_for_output(rf".* {name} .*", "stderr")[0]
    assert "POST /v1/embeddings 200 " in line
    assert " outcome=stop " in line and " prompt_tokens=3 " in line
    assert " completion_tokens=0 " in line
    counted = 'ggml_requests_total{endpoint="/v1/embeddings",finish_reason="stop",status="200"}'
    assert counted in echo_server.http.get("/metrics").text


def test_a_client_that_leaves_frees_the_workers(slow_server: Server) -> None:
    url = httpx.URL(slow_server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=20)
    connection.request("POST", "/v1/embeddings", json.dumps({"input": ["ab"] * 2000}))
    slow_server.wait_until(lambda status: status["running"] == 2)
    connection.close()
    slow_server.wait_until_idle()


def test_others_are_served_between_many_texts(slow_server: Server) -> None:
    with ThreadPoolExecutor(1) as client:
        many = client.submit(embeddings, slow_server, [f"text {i}" for i in range(100)])
        slow_server.wait_until(lambda status: status["running"] == 2)
        with httpx.Client(base_url=slow_server.url, timeout=20) as other:
            answer = other.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        assert answer.json() == "x"
        assert slow_server.ready()["running"] > 0
        assert len(many.result(20)) == 100
