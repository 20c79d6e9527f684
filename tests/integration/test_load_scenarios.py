"""The load tests as users run them: locust in a process of its own, against a real server."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.serving import DEADLINE_S, ROOT, Server, served_echo

LOCUST = (sys.executable, "-m", "locust", "-f", "scripts/load/locustfile.py", "--headless")
SMALL = ("--max-tokens", "16", "--prompt-tokens", "6", "--only-summary", "--stop-timeout", "0")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Two workers that take 2 ms for a byte, a backlog of 8."""
    with served_echo("--max-queue", "8", "--drain-timeout", "2", delay_ms=2) as server:
        yield server
        server.stop()


def run(
    url: str, report: Path, *options: str, command: Sequence[str] = LOCUST
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "--host", url, "--report", str(report), *SMALL, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
    )


def steps(url: str, folder: Path, *options: str, **more: Sequence[str]) -> list[dict[str, Any]]:
    """The steps of a test that must go well."""
    done = run(url, folder / "new" / "report.json", *options, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads((folder / "new" / "report.json").read_text())["steps"]
    for step in found:
        assert step["counts"]["completed"] > 0
        assert step["counts"].get("failed", 0) == 0, step["errors"]
    return found


@pytest.mark.parametrize("scenario", ["completions", "multi-turn"])
def test_a_closed_loop(scenario: str, server: Server, tmp_path: Path) -> None:
    (step,) = steps(
        server.url, tmp_path, "--scenario", scenario, "-u", "2", "-r", "2", "-t", "3s",
        "--warmup", "1", "--slo", "ttft:60000,tpot:60000,e2el:60000",
    )  # fmt: skip
    assert (step["users"], step["short"]) == (2, 0)
    assert step["completion_tokens"] == 16 * step["counts"]["completed"]
    assert step["good_requests_per_s"] == step["requests_per_s"] > 0
    for values in step["latencies_ms"].values():
        assert 0 < values["p50"] <= values["p90"] <= values["p95"] <= values["p99"]
    assert step["latencies_ms"]["ttft"]["p50"] < step["latencies_ms"]["e2el"]["p50"]
    # No cache flatters the figures. (The echo engine's chats are their last message.)
    assert step["cached_tokens"] / step["prompt_tokens"] < 0.3


def test_an_open_loop_with_a_shared_prefix(server: Server, tmp_path: Path) -> None:
    (step,) = steps(
        server.url, tmp_path, "--rate", "20", "--burstiness", "0.5", "-u", "2", "-r", "2",
        "-t", "3s", "--scenario", "completions", "--shared-prefix", "100",
    )  # fmt: skip
    assert step["users"] == 0
    assert step["cached_tokens"] / step["prompt_tokens"] > 0.5


def test_a_sweep_by_the_script_has_a_step_for_each_number_of_users(
    server: Server, tmp_path: Path
) -> None:
    command = ["./scripts/load-test", "--step-time", "2"]
    found = steps(server.url, tmp_path, "--sweep=1,3,3", command=command)
    assert [step["users"] for step in found] == [1, 3, 3]


def test_locusts_own_page(server: Server, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    page = ["./scripts/load-test", "--web", "--web-port", str(port)]
    options = ("--autostart", "--autoquit", "0", "-u", "1", "-t", "2s")
    done = run(server.url, tmp_path / "report.json", *options, command=page)
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["steps"][0]["counts"]["completed"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-tokens", "0"), "argument --max-tokens: '0': it must be a number of 1 or more"),
        (("--sweep", "1,2", "-u", "2"), "load test: -u, -r and -t have no meaning with --sweep"),
    ],
)
def test_bad_options_end_at_once(
    options: tuple[str, ...], message: str, server: Server, tmp_path: Path
) -> None:
    done = run(server.url, tmp_path / "report.json", *options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run(url, tmp_path / "report.json")
    assert done.returncode == 1
    assert f"no OpenAI-style server answers at {url}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["load-test", "bench", "chaos", "soak", "fuzz-http"])
def test_help_needs_no_installation(name: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "deploy", "grafana", "models")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=ignore)
    python = tmp_path / "python-alone"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / name, "--help"],
        env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert not (tmp_path / ".venv").exists()
