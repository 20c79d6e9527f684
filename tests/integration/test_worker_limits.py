"""Real servers at the limits of what they bear with, and with a worker that was stopped."""

from pathlib import Path

from tests.serving import run_main, served_echo


def test_a_memory_limit_that_no_worker_can_keep() -> None:
    done = run_main(MODEL_TYPE="echo", MAX_WORKER_MEMORY="8M")
    assert done.returncode == 2
    assert "MAX_WORKER_MEMORY=8M" in done.stderr and "16 MiB" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_load_in_time(tmp_path: Path) -> None:
    # Runs at the start of each Python; with it the zygote never gets to load the model.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\nif 'worker.zygote' in ' '.join(sys.orig_argv):\n    signal.pause()\n"
    )
    done = run_main(MODEL_TYPE="echo", START_TIMEOUT="1", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "did not load within 1 s" in done.stderr and "START_TIMEOUT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_short_of_memory_says_so() -> None:
    with served_echo("--min-free-memory", "1000000G") as server:
        status = server.wait_until(lambda status: status["reason"] is not None)
        assert "MIN_FREE_MEMORY" in status["reason"]
        assert server.http.get("/ready").status_code == 503
        answer = server.http.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "insufficient_memory"
        assert int(answer.headers["retry-after"]) >= 1
        server.stop()
