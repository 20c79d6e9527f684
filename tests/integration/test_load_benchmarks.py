"""The benchmarks' command: short runs of some of its parts, with all that they write."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.serving import ROOT, START_S, served

# The parts are real, and short: most of the time is taken by starts of servers.
PARTS = "chats,lengths"


def bench(*options: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "bench", "--quick", *options],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * START_S,
    )


def written(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def test_parts_give_a_table_json_and_plots(quick_model: Path, tmp_path: Path) -> None:
    # No module of the folder that the user is in is taken for one of the benchmarks'.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").touch()
    options = ("--only", PARTS, "--json", "x.json", "--plots", "plots", "--formats", "svg,png")
    done = bench("--model", str(quick_model), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = written(tmp_path / "x.json")
    assert not results["notes"]
    assert {figure["part"] for figure in results["figures"]} == set(PARTS.split(","))
    for figure in results["figures"]:
        assert f"| {figure['name']} | {figure['measured']}" in done.stdout
        assert all(value is not None for value in figure["values"])
    (reuse,) = (figure for figure in results["figures"] if figure["part"] == "chats")
    assert 0.9 <= reuse["values"][0] <= 1
    cold, warm = results["series"]
    assert cold["x"] == warm["x"]
    # Thirty times as much is evaluated for the one as for the other.
    assert warm["y"][-1] < cold["y"][-1]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["ttft.png", "ttft.svg"]


def test_another_server_is_compared(quick_model: Path, tmp_path: Path) -> None:
    options = ("--model", str(quick_model), "--json", str(tmp_path / "x.json"))
    with served("--workers", "1", MODEL_NAME=str(quick_model)) as other:
        done = bench("--compare", f"{other.url}/", *options)
    assert done.returncode == 0, done.stderr
    results = written(tmp_path / "x.json")
    assert not results["notes"]
    for figure in results["figures"]:
        assert other.url in figure["name"]
        assert all(value > 0 for value in figure["values"])
    names = {(curve["plot"], curve["label"]) for curve in results["series"]}
    assert names == {
        (plot, label)
        for plot in ("compare-throughput", "compare-ttft")
        for label in ("this server", other.url)
    }


def test_what_cannot_be_done_is_said() -> None:
    done = bench("--only", "chats,speed")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--only speed: it must be of throughput, chats" in done.stderr
    done = bench("--compare", "localhost:1")
    assert done.returncode == 1
    assert "no OpenAI-style server answers at localhost:1" in done.stderr
    assert "Traceback" not in done.stderr
