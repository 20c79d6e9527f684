"""Tests of the comparison of two libraries, with the package's own in place of a new one."""

import platform
from pathlib import Path

import numpy as np
import pytest

from shared.errors import EngineError
from shared.model.description import Family
from shared.model.inspect import inspect
from shared.model.library import Cpu, choose, package_library
from worker.build.sample_models import N_CTX, SAMPLES, Sample
from worker.build.self_test import _difference, self_test

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="ctransformers' wheels have libraries for x86 only"
)
FLOATS = next(sample for sample in SAMPLES if sample.has_floats)
INTEGERS = next(sample for sample in SAMPLES if not sample.has_floats)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_sample_is_a_model_of_its_kind(sample: Sample, tmp_path: Path) -> None:
    file = inspect(sample.write(tmp_path))
    assert (file.family, file.n_ctx_most) == (sample.family, file.n_ctx_train)
    assert file.n_ctx_most >= N_CTX
    assert file.quantisation.startswith(sample.weights)


def test_every_family_is_covered() -> None:
    assert {sample.family for sample in SAMPLES} == set(Family)


def test_another_variant_agrees_to_rounding(tmp_path: Path) -> None:
    reference = package_library(Cpu.here()).path
    test = self_test(Path(choose("avx", tmp_path).path), reference, tmp_path)
    assert test.models == len(SAMPLES)
    assert test.difference is not None and 0 < test.difference < 0.06
    assert test.prefill is not None and test.decode is not None
    assert min(test.prefill, test.decode) > 0


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "none.so"
    path.write_text("none")
    with pytest.raises(EngineError, match=rf"self-test of {path} failed at .*could not be loaded"):
        self_test(path, "", tmp_path)


def logits() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((80, 320)).astype(np.float32)


def test_rounding_is_let_pass() -> None:
    wanted = logits()
    assert _difference(FLOATS, wanted, wanted) == 0
    noise = np.random.default_rng(1).standard_normal(wanted.shape).astype(np.float32)
    assert _difference(INTEGERS, wanted + 0.02 * noise, wanted) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(EngineError, match=r"logits of llama-f32\.gguf differ by 0\.02"):
        _difference(FLOATS, wanted + 0.02 * noise, wanted)


def test_a_mistake_is_seen() -> None:
    wanted = logits()
    with pytest.raises(EngineError, match=r"differ by 1\.4.* at most 0\.06 is rounding"):
        _difference(INTEGERS, wanted[::-1], wanted)


def test_another_greedy_token_is_seen() -> None:
    wanted = logits()
    found = wanted.copy()
    found[7, wanted[7].argmin()] = wanted[7].max() + 0.1
    with pytest.raises(EngineError, match="other greedy tokens"):
        _difference(INTEGERS, found, wanted)
