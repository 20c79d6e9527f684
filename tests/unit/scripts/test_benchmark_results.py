"""Figures meet their goals, what a benchmark counts is what it says, and no failure loses more."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bench_gateway import Cost, large_bodies, markdown
from scripts.bench_sides import InProcess, Server, ServerFailed
from scripts.benchmarks import __main__ as command
from scripts.benchmarks import plots
from scripts.benchmarks.conversations import Chat
from scripts.benchmarks.results import Figure, Results, Series, table
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.shared_prompt import (
    common_prefix,
    distinct_tokens,
)
from scripts.benchmarks.target import unlike_any
from scripts.load.outcome import Outcome


@pytest.mark.parametrize(
    ("values", "digits", "goal", "met"),
    [
        ((0.97,), 2, "≥ 0.97", True),
        ((0.9699,), 2, "≥ 0.97", False),
        ((1000.4,), 0, "≤ 1,000", False),
        ((0.964,), 2, "≥ 0.97", False),
        ((1.0, 0.9), 2, "≥ 0.97", False),
        ((900.0,), 0, "≤ 1,000", True),
        ((math.nan,), 2, "≤ 1", False),
        ((1.0,), 2, "", None),
    ],
)
def test_a_goal_is_met_by_what_was_measured(
    values: tuple[float, ...], digits: int, goal: str, met: bool | None
) -> None:
    assert Figure("p", "n", values, digits=digits, goal=goal).is_met is met


def test_the_table_and_the_json() -> None:
    results = Results("machine")
    results.add("p", "a", 1.234, 5.0, unit="ms", digits=1, goal="≤ 3")
    results.add("p", "b", math.nan)
    results.series.append(Series("cpu", "x", (1, 2), (3.0, math.nan)))
    assert table(results.figures).splitlines()[2:] == [
        "| a | 1.2 ms / 5.0 ms (missed) | ≤ 3 ms |",
        "| b | - |  |",
    ]
    content = results.as_json()
    assert json.loads(json.dumps(content, allow_nan=False))["figures"][0]["met"] is False
    assert content["figures"][1]["values"] == [None]
    assert content["series"][0]["y"] == [3.0, None]


def test_plots_are_drawn_for_what_there_is(tmp_path: Path) -> None:
    series = [Series("cpu", "x", (1, 2, 8), (3.0, math.nan, 4.0)), Series("cpu", "y", (1,), (1.0,))]
    written = plots.draw(series, tmp_path / "new", ["svg", "png"])
    assert [path.name for path in written] == ["cpu.svg", "cpu.png"]
    assert b"per token" in written[0].read_bytes()
    assert written[1].read_bytes().startswith(b"\x89PNG")
    again = plots.draw(series, tmp_path / "again", ["svg"])
    assert again[0].read_bytes() == written[0].read_bytes()


def test_distinct_tokens_are_those_of_no_earlier_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    prompts = [[1, 2, 3], [1, 2, 4], [1, 2, 4, 5], [9]]
    assert distinct_tokens(prompts, []) == 3 + 1 + 1 + 1
    assert distinct_tokens(prompts, [[1, 2]]) == 1 + 1 + 1 + 1


def test_what_could_be_reused_is_what_the_turn_before_left() -> None:
    def turn(prompt: int, cached: int, completion: int, reason: str) -> Outcome:
        return Outcome(
            "x", "completed", 0.0, 1.0, finish_reason=reason, prompt_tokens=prompt,
            cached_tokens=cached, completion_tokens=completion,
        )  # fmt: skip

    chat = Chat([])
    chat.outcomes = [turn(10, 3, 5, "length"), turn(20, 14, 4, "stop"), turn(30, 20, 1, "stop")]
    assert chat.reused() == (14 + 20, (10 + 5 - 1) + (20 + 4))


def test_no_text_begins_like_the_ones_before() -> None:
    texts = [unlike_any() for _ in range(60)]
    for number in range(1, 60):
        recent = texts[max(0, number - 51) : number]
        assert texts[number][0] not in {text[0] for text in recent}


def broken_server() -> None:
    Server(MODEL_TYPE="echo", WORKERS="none")


def broken_engine() -> None:
    InProcess(Path("/no/such/model"))


@pytest.mark.parametrize("failing", [broken_server, broken_engine])
def test_a_part_that_fails_loses_no_other(
    failing: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def good(setup: Setup, results: Results) -> None:
        results.add("good", "n", 1.0)

    def bad(setup: Setup, results: Results) -> None:
        failing()

    parts = {"good": ("", good), "bad": ("", bad), "more": ("", good)}
    monkeypatch.setattr(command, "PARTS", parts)
    with pytest.raises(ServerFailed):
        failing()
    target = tmp_path / "x.json"
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(["--model", __file__, "--json", str(target)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    content = json.loads(target.read_text("utf-8"))
    assert len(content["figures"]) == 2
    (note,) = content["notes"]
    assert note.startswith("bad was given up: ")


def test_an_interruption_loses_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def good(setup: Setup, results: Results) -> None:
        results.add("good", "n", 1.0)

    def interrupted(setup: Setup, results: Results) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "PARTS", {"a": ("", good), "b": ("", interrupted)})
    target = tmp_path / "x.json"
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(["--model", __file__, "--json", str(target)]) == 130
        assert len(json.loads(target.read_text("utf-8"))["figures"]) == 1
        # With nothing measured, an older file stays.
        assert command.main(["--model", __file__, "--json", str(target), "--only", "b"]) == 130
        assert len(json.loads(target.read_text("utf-8"))["figures"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


def test_streams_too_short_for_a_cpu_figure_have_none() -> None:
    def row(tokens_each: int) -> list[str]:
        cost = Cost(2, 10, 10 * tokens_each, 0, 25.0, 900.0, 50.0, 0.5, 4.0)
        assert cost.us_per_event == 50.0
        lines = markdown({"costs": [cost.__dict__], "stalls_ms": {}}).splitlines()
        return [cell.strip() for cell in lines[2].strip("|").split("|")]

    assert row(200) == [
        "2",
        "10",
        "50",
        "25.0 µs",
        "50.0 µs",
        "0.50",
        "40,000",
        "900 µs",
        "4 KiB",
        "0",
    ]
    assert row(20) == ["2", "10", "50", "-", "-", "0.50", "-", "900 µs", "4 KiB", "0"]


def test_large_bodies_are_of_a_megabyte_each() -> None:
    for name, (path, body) in large_bodies().items():
        assert path.startswith("/v") and 0.8e6 < len(body) < 2 << 20, name
