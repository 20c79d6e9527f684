"""The model is loaded again beside the one that is served, and no request is lost by it."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.raw_http import connected, head
from tests.serving import DEADLINE_S, START_S, Server, chat, served, streamed, text_of, wait_for_end

MODELS = Path(__file__).parents[1] / "models"
KEY = {"authorization": "Bearer admin-secret"}
# Keeps zygotes from loading for as long as a file is there.
HOLD = """
import pathlib, sys, time
if 'worker.zygote' in ' '.join(sys.orig_argv):
    hold = pathlib.Path(__file__).with_name('hold')
    if hold.exists():
        print('the zygote is held', flush=True)
    while hold.exists():
        time.sleep(0.005)
"""


@contextmanager
def served_echo(
    *options: str, delay_ms: float = 0, workers: int = 2, **more: str
) -> Iterator[Server]:
    with served("--workers", str(workers), "--echo-delay-ms", str(delay_ms), *options,
                MODEL_TYPE="echo", ADMIN_KEY="admin-secret", **more) as server:  # fmt: skip
        yield server
        assert "Traceback" not in server.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that may be reloaded."""
    with served_echo() as server:
        yield server
        server.stop()


def reload(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/reload", headers=KEY, timeout=START_S)


def reloaded(server: Server) -> dict[str, Any]:
    response = reload(server)
    assert response.status_code == 200, (response.text, server.log())
    content: dict[str, Any] = response.json()
    return content


def check_error(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    return str(response.json()["error"]["message"])


def test_all_processes_are_new_and_none_of_the_old_are_left(server: Server) -> None:
    server.http.post("/v1/completions", json={"prompt": "counted"})
    counted, before = server.counters(), server.worker_pids()
    content = reloaded(server)
    assert (content["model"], content["workers"]) == ("echo", 2)
    assert content["seconds"] > 0
    assert not set(before) & set(server.worker_pids())
    for pid in before:
        assert wait_for_end(pid)
    assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
    after = server.counters()
    assert all(after[name] >= value for name, value in counted.items())
    assert after["ggml_generation_tokens_total"] > counted["ggml_generation_tokens_total"] > 0


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the server", "to all"])
def test_sighup_does_the_same(server: Server, send: Callable[[int, int], None]) -> None:
    before = server.wait_until_idle()["workers"]
    # Those of a terminal that is closed go to all.
    send(server.process.pid, signal.SIGHUP)
    after = server.wait_until(lambda status: status["workers"] != before)["workers"]
    assert not {each["pid"] for each in before} & {each["pid"] for each in after}
    server.wait_until_idle()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer user-secret"},
        {"authorization": "Basic admin-secret"},
        {"authorization": "Bearer"},
        {"x-api-key": "admin-secret"},
        {},
    ],
    ids=["a user's", "not a bearer", "no key", "elsewhere", "none"],
)
def test_it_takes_the_key_for_it(server: Server, headers: dict[str, str]) -> None:
    response = server.http.post("/admin/reload", headers=headers)
    check_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_request_that_has_only_begun_to_arrive(server: Server) -> None:
    body = json.dumps({"prompt": "slow"}).encode()
    with connected(server) as connection:
        connection.send(head(b"Content-Length: %d" % len(body)), body[:5])
        server.http.get("/health")  # by then that one has been seen
        reloaded(server)
        reloaded(server)
        connection.send(body[5:])
        assert connection.answer().body == b'"slow"'


def test_without_a_key_there_is_nothing(echo_server: Server) -> None:
    check_error(reload(echo_server), 404, "unknown_url")


def test_no_request_is_lost_by_three_reloads_in_a_row() -> None:
    text = "what comes back must be whole"
    stop = threading.Event()

    def ask(server: Server, stream: bool) -> int:
        n_done = 0
        while not stop.is_set():
            if stream:
                with streamed(server, chat(text)) as events:
                    *chunks, last = events
                assert last == "[DONE]" and text_of(chunks) == text
            else:
                body = {"prompt": text}
                answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=START_S)
                assert (answer.status_code, answer.json()) == (200, text)
            n_done += 1
        return n_done

    # More clients than workers, so some wait.
    with served_echo(delay_ms=2) as server, ThreadPoolExecutor(5) as threads:
        clients = [threads.submit(ask, server, number % 2 == 0) for number in range(5)]
        try:
            for _ in range(3):
                reloaded(server)
        finally:
            stop.set()
        assert all(client.result() > 0 for client in clients)
        server.wait_until_idle()
        server.wait_for_output("(?s)(has been unloaded.*){3}", "stderr")
        server.stop()


def test_what_runs_and_what_waits_ends_where_it_began() -> None:
    text = "this is what has to come back whole, and it takes its time"
    with (
        served_echo(delay_ms=30, workers=1) as server,
        ThreadPoolExecutor(1) as threads,
        streamed(server, chat(text)) as stream,
    ):
        chunks = [next(stream)]
        (before,) = [
            each["pid"] for each in server.ready()["workers"] if each["state"] == "running"
        ]
        body = {"prompt": "waited"}
        waiting = threads.submit(server.http.post, "/v1/completions", json=body)
        server.wait_until(lambda status: status["waiting"] == 1)
        reloaded(server)
        # A new one need not wait for the old ones.
        url = f"{server.url}/v1/completions"
        assert httpx.post(url, json={"prompt": "new"}, timeout=START_S).json() == "new"
        chunks += stream
        assert chunks.pop() == "[DONE]" and text_of(chunks) == text
        assert waiting.result().json() == "waited"
        assert wait_for_end(before)
        server.stop()


def test_a_changed_model_and_files_that_cannot_be_served(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    shutil.copy(MODELS / "gpt2.bin", path)
    with served("--workers", "1", MODEL_NAME=str(path), ADMIN_KEY="admin-secret") as server:

        def family() -> str:
            body = {"prompt": "a", "max_tokens": 4}
            assert server.http.post("/v1/completions", json=body).status_code == 200
            (entry,) = server.http.get("/v1/models").json()["data"]
            return str(entry["family"])

        before = server.worker_pids()
        for content in (None, b"this is no model" * 100):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            message = check_error(reload(server), 500, "reload_failed")
            assert "model.bin" in message and tmp_path.name not in message
            server.wait_for_output(str(path), "stderr")
            assert (family(), server.worker_pids()) == ("gpt2", before)
        # And it can be tried again.
        shutil.copy(MODELS / "mpt-alibi8.bin", tmp_path / "new")
        os.replace(tmp_path / "new", path)
        assert reloaded(server)["model"] == "model"
        assert family() == "mpt"
        server.stop()


def test_one_at_a_time_and_sigterm_wins(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOLD)
    with served_echo(PYTHONPATH=str(tmp_path)) as server, ThreadPoolExecutor(1) as threads:
        (tmp_path / "hold").touch()
        first = threads.submit(reload, server)
        server.wait_for_output("the zygote is held")
        check_error(reload(server), 409, "reload_running")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_output("SIGHUP: A model is being loaded already", "stderr")
        assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
        server.process.terminate()
        assert server.wait_for_exit(DEADLINE_S) == 0, server.log()
        assert server.wait_until_gone(timeout=2) == []
        answer = first.result(DEADLINE_S)
        check_error(answer, 503, "shutting_down")
        assert answer.headers["retry-after"]
