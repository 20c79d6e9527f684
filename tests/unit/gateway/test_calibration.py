"""Tests of the process that measures a model, and of what is kept of its figures."""

import json
from pathlib import Path

import pytest

from gateway import calibration
from gateway.calibration import Calibration, Exactness, fastest, layouts
from shared.config import WorkerConfig
from tests.gguf_files import tiny_llama


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    return WorkerConfig("llamacpp", str(tiny_llama().write(tmp_path / "tiny.gguf")), n_ctx=512)


def known(config: WorkerConfig, folder: Path, cores: int = 2) -> Calibration:
    return Calibration(config, cores, folder)


def test_a_model_is_measured_once(
    config: WorkerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = known(config, tmp_path)
    assert first.exactness is None
    assert first.measure_exactness() == Exactness(1, 1)
    first.workers([1, 2])
    (kept,) = (tmp_path / "calibration").iterdir()
    # A machine that does much else yields no figure, and that is kept too.
    assert {"rates", "tries"} & set(json.loads(kept.read_text())), caplog.text
    assert known(config, tmp_path).exactness == Exactness(1, 1)
    assert known(config, tmp_path, cores=3).exactness is None
    kept.write_bytes(b"\xff rubbish")
    assert known(config, tmp_path).exactness is None
    kept.write_text(json.dumps({"key": "of another model", "exact_rows": 9, "exact_threads": 9}))
    assert known(config, tmp_path).measure_exactness() == Exactness(1, 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import sys; sys.exit('no model')", "exit status 1: no model"),
        ("print('[')", "could not be measured"),
        ("import time; time.sleep(60)", "timed out after 0.2 seconds"),
    ],
)
def test_what_dies_or_hangs_leaves_the_usual_number(
    config: WorkerConfig, tmp_path: Path, body: str, said: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(calibration, "_CODE", body)
    timeout_s = 0.2 if "sleep" in body else None
    found = Calibration(config, 2, tmp_path, timeout_s=timeout_s)
    assert found.workers([1, 2]) is None and found.measure_exactness() is None
    assert said in caplog.text
    for _ in range(3):
        again = Calibration(config, 2, tmp_path, timeout_s=timeout_s)
        assert again.workers([1, 2]) is None
    assert len(caplog.messages) == 4  # three starts have tried the layouts, the fourth has not


def test_figures_of_a_disturbed_machine_are_not_kept(
    config: WorkerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"2": {"1": 50.0, "2": 10.0}}

    def answer(**found: object) -> None:
        monkeypatch.setattr(calibration, "_CODE", f"print({json.dumps(found)!r})")

    for folder, tries in ((tmp_path / "busy", 3), (tmp_path, 1)):
        answer(rates=rates, disturbed=True)
        for _ in range(tries):
            assert known(config, folder).workers([1, 2]) is None
        answer(rates=rates, disturbed=False)
        assert known(config, folder).workers([1, 2]) == (None if tries == 3 else 1)
    answer(rates=rates, disturbed=False)
    assert known(config, tmp_path).workers([1, 2]) == 1
    answer(rates={}, disturbed=False)
    assert known(config, tmp_path).workers([1, 2]) == 1  # as before
    assert known(config, tmp_path).workers([1, 3]) is None  # too slow to be measured
    answer(rates=rates, disturbed=False)
    assert known(config, tmp_path).workers([1, 2]) is None


def test_the_fastest_layout_is_clearly_faster_than_the_usual_one() -> None:
    rates = {"2": {"1": 100.0, "2": 100.0}, "16": {"1": 108.0, "2": 100.0}}
    assert fastest(rates, [1, 2]) == 2
    rates["4"] = {"1": 110.0, "2": 100.0}
    assert fastest(rates, [1, 2]) == 1


@pytest.mark.parametrize(
    ("most", "cores", "expected"),
    [
        (2, 2, [1, 2]),
        (16, 16, [1, 2, 4, 8, 16]),
        (1, 1, [1]),
        (3, 16, [1, 2, 3]),
        (6, 6, [1, 2, 6]),
    ],
)
def test_layouts_share_the_cores(most: int, cores: int, expected: list[int]) -> None:
    assert layouts(most, cores) == expected
