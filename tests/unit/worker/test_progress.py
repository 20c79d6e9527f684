"""Tests of the signs of life that a worker gives between the events of a generation."""

import pytest

from shared.encoding import encode
from shared.messages import Progress
from tests.unit.worker.loops import Bench, generate


def bench_at(step_s: float, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A loop that evaluates single tokens, each of which takes so long by its clock."""
    bench = Bench(chunk=1)
    monkeypatch.setattr("worker.loop.time.monotonic", lambda: step_s * len(bench.engine.evaluated))
    return bench


def sent(bench: Bench) -> list[str]:
    return [type(message).__name__ for message in bench.outbox.sent]


def test_a_long_prefill_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_at(0.2, monkeypatch)
    bench.run(generate("x" * 10, max_tokens=1))
    kinds = sent(bench)
    assert kinds[:3] == ["Progress"] * 3, "in 1.8 s"
    assert kinds[3] == "Prefilled" and "Progress" not in kinds[4:]
    assert kinds[-1] == "Finished"
    assert encode(bench.outbox.sent[0]) == encode(Progress("r"))


def test_tokens_whose_text_is_held_back_are_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_at(0.3, monkeypatch)
    bench.run(generate("abcdef", stop=("abcdefg",)))
    kinds = sent(bench)
    assert "Progress" in kinds[kinds.index("Prefilled") :]


def test_nothing_is_said_of_what_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_at(0.001, monkeypatch)
    bench.run(generate("x" * 100))
    assert "Progress" not in sent(bench)
