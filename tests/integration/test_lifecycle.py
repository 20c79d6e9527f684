"""Real servers: how they end, and that nothing of them is left."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.integration.raw_http import connected, head
from tests.serving import Server, chat, launched, long_chat, served_echo, streamed, text_of

SHUTTING_DOWN = "gateway.server: shutting down"


def check_that_nothing_is_left(server: Server) -> None:
    assert server.wait_for_exit() == 0, server.log()
    assert server.wait_until_gone(timeout=2) == []
    assert "Traceback" not in server.stderr


def test_no_process_outlives_a_killed_gateway() -> None:
    warm = ("--warm-prompt", "You are kind.", "--chat-template", "chatml")
    with served_echo(*warm, delay_ms=20) as server, streamed(server, long_chat()) as stream:
        next(stream)
        # The gateway, the zygote, and two workers at least.
        assert len(server.processes()) >= 4
        assert set(server.worker_pids()) < set(server.processes())
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone(timeout=2) == []


def test_no_worker_outlives_a_killed_gateway_for_an_evaluation() -> None:
    with served_echo(delay_ms=60_000) as server, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(server.http.post, "/v1/chat/completions", json=chat("x"))
        server.wait_until(lambda status: status["running"] == 1)
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone(timeout=2) == []
        assert isinstance(asking.exception(), httpx.TransportError)


def test_no_zygote_that_loads_outlives_a_killed_gateway(tmp_path: Path) -> None:
    # Runs at the start of each Python.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'worker.zygote' in ' '.join(sys.orig_argv):\n"
        "    from worker import engines\n"
        "    def load(config):\n"
        "        print('the zygote loads', flush=True)\n"
        "        time.sleep(600)\n"
        "    engines.load = load\n"
    )
    with launched(MODEL_TYPE="echo", PYTHONPATH=str(tmp_path)) as server:
        server.wait_for_output("the zygote loads")
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone(timeout=2) == []


def test_sigterm_to_all_lets_streams_finish() -> None:
    texts = ["this is what has to come back whole", "and this"]
    with served_echo(delay_ms=20) as server, ExitStack() as stack:
        streams = [stack.enter_context(streamed(server, chat(text))) for text in texts]
        answers = [[next(stream)] for stream in streams]
        os.killpg(server.process.pid, signal.SIGTERM)
        server.wait_for_output(SHUTTING_DOWN, "stderr")
        assert server.process.poll() is None
        for stream, chunks, text in zip(streams, answers, texts, strict=True):
            chunks += stream
            assert chunks.pop() == "[DONE]"
            assert text_of(chunks) == text
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        check_that_nothing_is_left(server)


def test_while_it_drains_it_says_so() -> None:
    with (
        served_echo("--drain-timeout", "600", delay_ms=20) as server,
        streamed(server, long_chat()) as stream,
        httpx.Client(base_url=server.url, timeout=20) as kept,
        httpx.Client(base_url=server.url, timeout=20) as other,
    ):
        next(stream)
        assert "connection" not in kept.get("/health").headers
        server.process.terminate()
        server.wait_for_output(SHUTTING_DOWN, "stderr")
        # On a connection that was there before, and on a new one.
        for client in (kept, other):
            refused = client.post("/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert refused.headers["retry-after"]
            assert refused.headers["connection"] == "close"
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["state"]) == (503, "closing")
            assert client.get("/health").status_code == 200
        assert next(stream)
        server.process.terminate()
        check_that_nothing_is_left(server)


def test_a_connection_that_is_kept_alive_holds_up_nothing() -> None:
    with (
        served_echo("--drain-timeout", "600", "--keep-alive-timeout", "600") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/health").status_code == 200
        os.killpg(server.process.pid, signal.SIGINT)
        check_that_nothing_is_left(server)


def test_a_second_signal_waits_for_nothing() -> None:
    with (
        served_echo("--drain-timeout", "600", "--receive-timeout", "600", delay_ms=20) as server,
        streamed(server, long_chat()) as stream,
        connected(server) as connection,
    ):
        next(stream)
        connection.send(head(b"Content-Length: 9"), b"{")
        server.http.get("/health")  # by then that one has been seen
        server.process.send_signal(signal.SIGINT)
        server.wait_for_output(SHUTTING_DOWN, "stderr")
        assert next(stream)  # the first signal has ended nothing
        assert server.http.get("/health").status_code == 200
        server.process.send_signal(signal.SIGINT)
        check_that_nothing_is_left(server)


@pytest.mark.parametrize("drain_timeout", ["0", "1"])
def test_what_is_not_done_at_the_drain_timeout_ends_with_an_error(drain_timeout: str) -> None:
    with (
        served_echo("--drain-timeout", drain_timeout, delay_ms=20) as server,
        streamed(server, long_chat()) as stream,
        streamed(server, long_chat(stream_options={"include_usage": True})) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        next(stream), next(other)
        waiting = threads.submit(server.http.post, "/v1/chat/completions", json=chat("x"))
        server.wait_until(lambda status: status["waiting"] == 1)
        server.process.terminate()
        for events in (stream, other):
            *chunks, last = events
            assert last["error"]["code"] == "shutting_down"
            assert "[DONE]" not in chunks
        answer = waiting.result()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        assert answer.headers["retry-after"]
        check_that_nothing_is_left(server)


def test_two_signals_at_once() -> None:
    with served_echo() as server:
        server.process.terminate()
        server.process.terminate()
        check_that_nothing_is_left(server)


def test_control_c_while_the_model_loads(tmp_path: Path) -> None:
    # Runs at the start of each Python; with it the zygote never gets to load the model.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "if 'worker.zygote' in ' '.join(sys.orig_argv):\n"
        "    print('the zygote loads', flush=True)\n"
        "    signal.pause()\n"
    )
    with launched(MODEL_TYPE="echo", PYTHONPATH=str(tmp_path)) as server:
        server.wait_for_output("the zygote loads")
        os.killpg(server.process.pid, signal.SIGINT)
        check_that_nothing_is_left(server)
    assert "ready" not in server.stdout
    # No other process has loaded it once more.
    assert server.stdout.count("the zygote loads") == 1
