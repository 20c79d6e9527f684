"""Tests of the search for the largest logits, against sorting them all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EngineError
from worker.sampling.top_k import TopK

SIZES = (4096, 4097, 4159, 4160, 9000, 50_257, 262_144)


def sorted_ids(logits: NDArray[np.float32], k: int) -> list[int]:
    """The slow reference: the largest first, equal ones in the order of their ids."""
    ids: list[int] = np.argsort(-logits, kind="stable")[:k].tolist()
    return ids


@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("k", [1, 2, 31, 40])
def test_finds_the_largest(n_vocab: int, k: int) -> None:
    top_k = TopK(k)
    assert top_k.suits(n_vocab)
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(0, 3, n_vocab).astype(np.float32)
        ids, values = top_k.largest(logits)
        assert ids.tolist() == sorted_ids(logits, k)
        assert np.array_equal(values, logits[ids])


@given(st.sampled_from(SIZES), st.integers(1, 32), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_equal_ones_come_by_id(n_vocab: int, k: int, n_values: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(0, n_values, n_vocab).astype(np.float32)
    ids, _ = TopK(k).largest(logits)
    assert ids.tolist() == sorted_ids(logits, k)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_the_largest_may_be_anywhere(n_vocab: int) -> None:
    top_k = TopK(3)
    for place in (0, 1, 31, 32, 2048, n_vocab - 33, n_vocab - 32, n_vocab - 2):
        logits = np.full(n_vocab, -math.inf, np.float32)
        logits[[place, place + 1]] = 1, 2
        ids, values = top_k.largest(logits)
        assert ids[:2].tolist() == [place + 1, place]
        assert values.tolist() == [2, 1, -math.inf]


@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_wherever_it_is(n_vocab: int, value: float) -> None:
    for place in (0, 31, 32, n_vocab - 1):
        logits = np.zeros(n_vocab, np.float32)
        logits[place] = value
        with pytest.raises(EngineError, match="not finite"):
            TopK(5).largest(logits)


def test_nothing_but_negative_infinity_is_not_finite() -> None:
    with pytest.raises(EngineError, match="not finite"):
        TopK(5).largest(np.full(4096, -math.inf, np.float32))


def test_few_logits_or_many_wanted_are_for_others() -> None:
    assert not TopK(1).suits(2047)
    assert not TopK(65).suits(4096)
    assert not TopK(0).suits(50_000)
    assert not TopK(10**9).suits(50_000)
