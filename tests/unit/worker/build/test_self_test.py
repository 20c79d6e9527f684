"""Tests of the comparison of two libraries, with the package's own in place of a new one."""

import platform
from pathlib import Path

import numpy as np
import pytest

from shared.errors import EngineError
from shared.model.library import Cpu, choose, package_library
from shared.model.tensors import ENGINE_TYPES
from worker.build.self_test import MODELS, difference, self_test

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="ctransformers' wheels have libraries for x86 only"
)
FLOATS, INTEGERS = "starcoder-f32.bin", "starcoder-q4_0.bin"


def test_every_type_is_covered() -> None:
    assert {ggml_type for _, ggml_type in MODELS} == ENGINE_TYPES


def test_another_variant_is_told_from_the_best_one(tmp_path: Path) -> None:
    """The package's own differ by rounding, and are not the same in all chunks."""
    reference = package_library(Cpu.here()).path
    with pytest.raises(EngineError, match=r"starcoder-f\d+\.bin gives other logits when"):
        self_test(Path(reference), reference, tmp_path)
    found = self_test(Path(choose("avx", tmp_path).path), reference, tmp_path)
    assert found is not None and 0 < found < 0.06


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "none.so"
    path.write_text("none")
    with pytest.raises(EngineError, match=rf"self-test of {path} failed at .*could not be loaded"):
        self_test(path, "", tmp_path)


def logits() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((80, 320)).astype(np.float32)


def test_rounding_is_let_pass() -> None:
    wanted = logits()
    assert difference(FLOATS, wanted, wanted) == 0
    noise = np.random.default_rng(1).standard_normal(wanted.shape).astype(np.float32)
    assert difference(INTEGERS, wanted + 0.02 * noise, wanted) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(EngineError, match=r"logits of starcoder-f32\.bin differ by 0\.02"):
        difference(FLOATS, wanted + 0.02 * noise, wanted)


def test_a_mistake_is_seen() -> None:
    wanted = logits()
    with pytest.raises(EngineError, match=r"differ by 1\.4.* at most 0\.06 is rounding"):
        difference(INTEGERS, wanted[::-1], wanted)


def test_another_greedy_token_is_seen() -> None:
    wanted = logits()
    found = wanted.copy()
    found[7, wanted[7].argmin()] = wanted[7].max() + 0.1
    with pytest.raises(EngineError, match="other greedy tokens"):
        difference(INTEGERS, found, wanted)
