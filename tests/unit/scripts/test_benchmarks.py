"""Figures meet their goals, what a benchmark counts is what it says, and no failure loses more."""

import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.benchmarks import __main__ as command
from scripts.benchmarks import run as running
from scripts.benchmarks.bare_engine import BareEngine
from scripts.benchmarks.raw_library import RawLibrary
from scripts.benchmarks.reuse import Chat
from scripts.benchmarks.setup import Setup
from scripts.figures import Axes, Figure, Results, Series, draw, table
from scripts.prompts import unlike_any
from scripts.server import ServerFailed, served
from scripts.transcript import Outcome
from tests.gguf_files import tiny_llama


@pytest.mark.parametrize(
    ("values", "digits", "goal", "met"),
    [
        ((0.97,), 2, "≥ 0.97", True),
        ((0.9699,), 2, "≥ 0.97", False),
        ((1000.4,), 0, "≤ 1,000", False),
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


def test_the_same_curves_give_the_same_file(tmp_path: Path) -> None:
    curves = [Series("cpu", "x", (1, 2, 8), (3.0, math.nan, 4.0)), Series("cpu", "y", (1,), (1.0,))]
    axes = Axes("Gateway CPU time", "streams", "µs per token", log_x=True)
    first, second = (draw(axes, curves, tmp_path / name / "cpu.svg") for name in "ab")
    assert b"per token" in first.read_bytes() == second.read_bytes()


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


def test_the_library_alone_generates(tmp_path: Path) -> None:
    model = tiny_llama(n_ctx=128).write(tmp_path / "model.gguf")
    with RawLibrary(str(model), 4, 256) as raw:
        speeds = raw.speeds([5, 20, 9, 11], (1, 2, 4), n=16, n_steps=4)
    assert len(speeds) == 3 and min(speeds) > 0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[int, dict[str, list[object]]]]]:
    """Runs the command; returns its exit status and what it wrote."""
    target, before = tmp_path / "x.json", signal.getsignal(signal.SIGTERM)

    def run(*options: str) -> tuple[int, dict[str, list[object]]]:
        status = command.main(["--model", __file__, "--json", str(target), *options])
        return status, json.loads(target.read_text("utf-8"))

    yield run
    signal.signal(signal.SIGTERM, before)


def test_every_part_is_measured() -> None:
    assert list(command.PARTS) == list(running.MEASURES)


def good(setup: Setup, results: Results) -> None:
    results.add("good", "n", 1.0)


def broken_server(setup: Setup, results: Results) -> None:
    with served(MODEL_TYPE="echo", WORKERS="none"):
        pass


def broken_engine(setup: Setup, results: Results) -> None:
    BareEngine("/no/such/model")


@pytest.mark.parametrize("failing", [broken_server, broken_engine])
def test_a_part_that_fails_loses_no_other(
    failing: running.Measure,
    run: Callable[..., tuple[int, dict[str, list[object]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ServerFailed):
        failing(Setup("", 1), Results(""))
    parts = {"good": good, "bad": failing, "more": good}
    monkeypatch.setattr(command, "PARTS", dict.fromkeys(parts, ""))
    monkeypatch.setattr(running, "MEASURES", parts)
    status, content = run()
    assert (status, len(content["figures"])) == (0, 2)
    assert str(content["notes"][0]).startswith("bad was given up: ")


def test_an_interruption_loses_nothing_either(
    run: Callable[..., tuple[int, dict[str, list[object]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(setup: Setup, results: Results) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "PARTS", {"a": "", "b": ""})
    monkeypatch.setattr(running, "MEASURES", {"a": good, "b": interrupted})
    status, content = run()
    assert (status, len(content["figures"])) == (130, 1)
    # With nothing measured, an older file stays.
    status, content = run("--only", "b")
    assert (status, len(content["figures"])) == (130, 1)
