"""The load tests as users run them: locust in a process of its own, against a real server."""

import json
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


def reported(url: str, folder: Path, *options: str) -> dict[str, Any]:
    """The report of a test that must go well."""
    done = run(url, folder / "new" / "report", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((folder / "new" / "report.json").read_text())
    rows = (folder / "new" / "report.csv").read_text().splitlines()
    assert len(rows) == 1 + len(report["steps"])
    for step in report["steps"]:
        assert step["failed"] == 0, step["error_code_frequency"]
        assert step["tokens_counted_by"] == "usage"
    return report


def only_step(report: dict[str, Any]) -> dict[str, Any]:
    (step,) = report["steps"]
    assert isinstance(step, dict)
    return step


@pytest.mark.parametrize("scenario", ["completions", "multi-turn"])
def test_a_closed_loop(scenario: str, server: Server, tmp_path: Path) -> None:
    report = reported(
        server.url, tmp_path, "--scenario", scenario, "-u", "2", "-r", "2", "-t", "3s",
        "--warmup", "1", "--slo", "ttft:60000,tpot:60000,e2el:60000",
    )  # fmt: skip
    step = only_step(report)
    assert step["users"] == 2
    assert step["peak_concurrency"] == 2
    assert step["completed"] > 0
    assert step["completion_tokens"] == 16 * step["completed"]
    assert step["short"] == 0
    assert step["request_goodput"] == step["request_throughput"] > 0
    for latency in ("ttft", "tpot", "itl", "e2el"):
        values = step[latency]
        assert 0 < values["p50"] <= values["p90"] <= values["p95"] <= values["p99"]
    assert step["ttft"]["p50"] < step["e2el"]["p50"]
    # No cache flatters the figures. (The echo engine's chats are their last message.)
    assert step["cached_tokens"] / step["prompt_tokens"] < 0.3


def test_an_open_loop_sends_whatever_the_server_does(server: Server, tmp_path: Path) -> None:
    options = ("--rate", "20", "--burstiness", "0.5", "-u", "2", "-r", "2", "-t", "3s")
    step = only_step(reported(server.url, tmp_path, "--scenario", "completions", *options))
    assert step["users"] == 0
    assert step["completed"] > 0


def test_a_shared_prefix_is_shared(server: Server, tmp_path: Path) -> None:
    options = ("--shared-prefix", "100", "-u", "1", "-t", "2s")
    step = only_step(reported(server.url, tmp_path, "--scenario", "completions", *options))
    assert step["cached_tokens"] / step["prompt_tokens"] > 0.5


def test_a_sweep_has_a_step_for_each_number_of_users(server: Server, tmp_path: Path) -> None:
    report = reported(server.url, tmp_path, "--sweep", "1,3,3", "--step-time", "2")
    assert [step["users"] for step in report["steps"]] == [1, 3, 3]
    assert [step["peak_concurrency"] for step in report["steps"]] == [1, 3, 3]
    assert all(step["completed"] > 0 for step in report["steps"])


def test_closed_connections_free_their_workers(server: Server, tmp_path: Path) -> None:
    options = ("--scenario", "disconnect", "--disconnect-after", "3", "-u", "3", "-t", "3s")
    report = reported(server.url, tmp_path, *options, "-r", "3")
    step = only_step(report)
    assert step["disconnected"] > 0
    assert step["completed"] > 0
    assert [check["passed"] for check in report["checks"]] == [True, True]
    server.wait_until_idle()


def test_a_burst_is_refused_with_advice(server: Server, tmp_path: Path) -> None:
    options = ("--scenario", "burst", "--burst-size", "40", "-t", "3s")
    report = reported(server.url, tmp_path, *options)
    step = only_step(report)
    assert step["refused"] > 0
    assert step["refused_without_retry_after"] == 0
    assert step["completed"] > 0
    assert [check["passed"] for check in report["checks"]] == [True, True]
    server.wait_until_idle()


def test_a_burst_that_proves_nothing_fails(server: Server, tmp_path: Path) -> None:
    options = ("--scenario", "burst", "--burst-size", "2", "-t", "2s")
    done = run(server.url, tmp_path / "report", *options)
    assert done.returncode == 1
    assert "FAILED: a 429 carries Retry-After" in done.stdout


def test_locusts_own_page(server: Server, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    page = ["./scripts/load-test", "--web", "--web-port", str(port)]
    options = ("--autostart", "--autoquit", "0", "-u", "1", "-t", "2s")
    done = run(server.url, tmp_path / "report", *options, command=page)
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["steps"][0]["completed"] > 0


def test_the_script_gives_a_sweep_no_time_of_its_own(server: Server, tmp_path: Path) -> None:
    command = ["./scripts/load-test", "--step-time", "2"]
    done = run(server.url, tmp_path / "report", "--sweep=2,2", command=command)
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert [step["users"] for step in steps] == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-tokens", "0"), "--max-tokens 0: it must be 1 or more"),
        (("--sweep", "1,2", "-u", "2"), "load test: -u has no meaning with --sweep"),
    ],
)
def test_bad_options_end_at_once(
    options: tuple[str, ...], message: str, server: Server, tmp_path: Path
) -> None:
    done = run(server.url, tmp_path / "report", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run(url, tmp_path / "report")
    assert done.returncode == 1
    assert f"no OpenAI-style server answers at {url}" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_installation(tmp_path: Path) -> None:
    (tmp_path / "scripts" / "load").mkdir(parents=True)
    for name in ("environment", "load-test", "load/options.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    done = subprocess.run(
        [tmp_path / "scripts" / "load-test", "--help"], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert "on this machine only" in done.stdout
    assert not (tmp_path / ".venv").exists()
