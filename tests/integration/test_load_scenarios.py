"""The load tests as users run them: locust in a process of its own, against a real server."""

import json
import os
import re
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
    url: str, *options: str, command: Sequence[str] = LOCUST
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "--host", url, *SMALL, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
    )


def rows(url: str, folder: Path, *options: str, **more: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a test that must go well reports, by the names of rows; none has a failure."""
    done = run(url, "--json-file", str(folder / "report"), *options, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["name"]: row for row in json.loads((folder / "report.json").read_text())}
    assert found and not any(row["num_failures"] for row in found.values())
    return found


def tokens(output: str) -> dict[str, int]:
    """The numbers of tokens of one step."""
    (numbers,) = re.findall(r"prompt (\d+) \(cached (\d+)\), output (\d+)", output)
    return dict(zip(("prompt", "cached", "output"), map(int, numbers), strict=True))


def test_a_closed_loop(server: Server, tmp_path: Path) -> None:
    found = rows(
        server.url, tmp_path, "--scenario", "completions", "-u", "2", "-r", "2", "-t", "3s",
        "--warmup", "1", "--slo", "ttft:60000,tpot:60000,e2el:60000",
    )  # fmt: skip
    assert set(found) == {f"completions{end}" for end in ("", "_ttft", "_tpot", "_itl", "_good")}
    n = found["completions"]["num_requests"]
    assert (
        n == found["completions_good"]["num_requests"] == found["completions_ttft"]["num_requests"]
    )
    assert found["completions_ttft"]["max_response_time"] > 0
    means = [
        found[name]["total_response_time"] / found[name]["num_requests"]
        for name in ("completions_tpot", "completions_ttft", "completions")
    ]
    assert means == sorted(means)


def test_chats_of_many_turns_have_a_row_for_each(server: Server, tmp_path: Path) -> None:
    options = ("--scenario", "multi-turn", "--turns", "2", "-u", "1", "-t", "3s")
    found = rows(server.url, tmp_path, *options)
    assert {"turn-1", "turn-2"} <= set(found) and "turn-3" not in found


def test_an_open_loop_with_a_shared_prefix(server: Server) -> None:
    done = run(
        server.url, "--rate", "20", "--burstiness", "0.5", "-u", "2", "-r", "2", "-t", "3s",
        "--scenario", "completions", "--shared-prefix", "100",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completions_ttft" in done.stderr
    seen = tokens(done.stdout)
    assert seen["cached"] / seen["prompt"] > 0.5 and seen["output"] % 16 == 0


def test_a_sweep_by_the_script_has_rows_for_each_number_of_users(
    server: Server, tmp_path: Path
) -> None:
    command = ["./scripts/load-test", "--step-time", "2"]
    found = rows(server.url, tmp_path, "--sweep=1,3", command=command)
    assert {"1 users: chat", "3 users: chat"} <= set(found)


def test_locusts_own_page(server: Server) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    page = ["./scripts/load-test", "--web", "--web-port", str(port)]
    done = run(server.url, "--autostart", "--autoquit", "0", "-u", "1", "-t", "2s", command=page)
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert tokens(done.stdout)["output"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-tokens", "0"), "argument --max-tokens: '0': it must be a number of 1 or more"),
        (("--sweep", "1,2", "-u", "2"), "load test: -u, -r and -t have no meaning with --sweep"),
    ],
)
def test_bad_options_end_at_once(options: tuple[str, ...], message: str, server: Server) -> None:
    done = run(server.url, *options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_said_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run(url)
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
