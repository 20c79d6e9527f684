"""The model is loaded again beside the one that is served, and no request is lost by it."""

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import (
    DEADLINE_S,
    START_S,
    Server,
    chat,
    launched,
    served,
    streamed,
    text_of,
    wait_for_end,
)

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


def test_all_processes_are_new_and_none_of_the_old_are_left() -> None:
    with served_echo() as server:
        server.http.post("/v1/completions", json={"prompt": "counted"})
        before, counted = server.worker_pids(), server.counters()
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
        before = server.worker_pids()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_output("(?s)echo is served from now on.*echo is served", "stderr")
        server.wait_until_idle()
        assert not set(before) & set(server.worker_pids())
        # Those of a terminal that is closed go to all.
        os.killpg(server.process.pid, signal.SIGHUP)
        server.wait_for_output("(?s)(echo is served from now on.*){3}", "stderr")
        server.stop()
    assert "Traceback" not in server.stderr


def test_the_key_for_it() -> None:
    with launched(
        "--workers", "1", MODEL_TYPE="echo", API_KEYS="user-secret", ADMIN_KEY="admin-secret"
    ) as server:
        server.wait_until_ready()
        for name, value in (
            ("authorization", "Bearer user-secret"),
            ("authorization", "Basic admin-secret"),
            ("authorization", "Bearer"),
            ("x-api-key", "admin-secret"),
            ("accept", "*/*"),
        ):
            response = server.http.post("/admin/reload", headers={name: value})
            check_error(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
        assert reload(server).status_code == 200
        check_error(server.http.post("/v1/completions", headers=KEY), 401, "invalid_api_key")


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


def test_a_request_that_has_only_begun_to_arrive() -> None:
    body = json.dumps({"prompt": "slow", "model": "echo"}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with served_echo() as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, START_S) as client:
            client.sendall(head.encode() + body[:5])
            server.http.get("/health")  # by then that one has been seen
            reloaded(server)
            reloaded(server)
            client.sendall(body[5:])
            answer = b""
            while more := client.recv(1 << 16):
                answer += more
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b'"text":"slow"' in answer
        server.stop()


def test_a_changed_model(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    shutil.copy(MODELS / "gpt2.bin", path)
    with served("--workers", "2", MODEL_NAME=str(path), ADMIN_KEY="admin-secret") as server:

        def family() -> str:
            (entry,) = server.http.get("/v1/models").json()["data"]
            return str(entry["family"])

        assert family() == "gpt2"
        shutil.copy(MODELS / "mpt-alibi8.bin", tmp_path / "new")
        os.replace(tmp_path / "new", path)
        assert reloaded(server)["model"] == "model"
        assert family() == "mpt"
        answer = server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
        assert answer.status_code == 200
        server.stop()


def test_a_file_that_cannot_be_served_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    shutil.copy(MODELS / "gpt2.bin", path)
    with served("--workers", "1", MODEL_NAME=str(path), ADMIN_KEY="admin-secret") as server:
        before = server.worker_pids()
        for content in (None, b"this is no model" * 100):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            message = check_error(reload(server), 500, "reload_failed")
            assert "model.bin" in message and str(tmp_path) not in message
            assert tmp_path.name not in message
            server.wait_for_output(str(path), "stderr")
            assert server.worker_pids() == before
            body = {"prompt": "a", "max_tokens": 4}
            assert server.http.post("/v1/completions", json=body).status_code == 200
            # And it can be tried again.
            shutil.copy(MODELS / "gpt2.bin", tmp_path / "good")
            os.replace(tmp_path / "good", path)
        reloaded(server)
        server.stop()


def test_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOLD)
    hold = tmp_path / "hold"
    with served_echo(PYTHONPATH=str(tmp_path)) as server, ThreadPoolExecutor(1) as threads:
        hold.touch()
        first = threads.submit(reload, server)
        server.wait_for_output("the zygote is held")
        check_error(reload(server), 409, "reload_running")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_output("SIGHUP: A model is being loaded already", "stderr")
        assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
        hold.unlink()
        assert first.result(START_S).status_code == 200
        server.stop()


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_wins(signals: int, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOLD)
    with served_echo(PYTHONPATH=str(tmp_path)) as server, ThreadPoolExecutor(1) as threads:
        (tmp_path / "hold").touch()
        reloading = threads.submit(reload, server)
        server.wait_for_output("the zygote is held")
        for _ in range(signals):
            server.process.terminate()
        assert server.wait_for_exit(DEADLINE_S) == 0, server.log()
        assert server.wait_until_gone(timeout=2) == []
        if signals == 1:
            answer = reloading.result(DEADLINE_S)
            check_error(answer, 503, "shutting_down")
            assert answer.headers["retry-after"]
    assert "Traceback" not in server.stderr
