"""Tests that a seed draws the same tokens as a sampler without any tricks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.sampling import SamplingParams
from worker.sampling.sampler import Sampler

Logits = NDArray[np.float32]
PLAIN = SamplingParams(top_k=0, top_p=1.0, min_p=0.0)


def normal(seed: int, n: int, spread: float) -> Logits:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


def drawn_plainly(
    logits: Logits, wanted: SamplingParams, seen: set[int], generated: list[int], number: float
) -> int:
    """What a random number between 0 and 1 draws, with everything done anew, and in full."""
    if wanted.repetition_penalty != 1.0 and seen:
        ids = np.array(sorted(seen))
        values, factor = logits[ids], wanted.repetition_penalty
        logits[ids] = np.where(values > 0, values / factor, values * factor)
    for token, count in Counter(generated).items():
        frequency = np.float32(wanted.frequency_penalty) * np.float32(count)
        logits[token] -= np.float32(wanted.presence_penalty) + frequency
    for token, bias in wanted.logit_bias:
        logits[token] += np.float32(bias)
    if wanted.temperature == 0:
        return int(logits.argmax())
    ids = np.arange(logits.size)
    if 0 < wanted.top_k < logits.size and logits.size > 65_536:
        ids = np.argsort(-logits, kind="stable")[: wanted.top_k]
    elif 0 < wanted.top_k < logits.size:
        ids = np.argpartition(logits, logits.size - wanted.top_k)[-wanted.top_k :]
    weights = np.exp((logits[ids] - logits.max()) * np.float32(1 / wanted.temperature))
    mass = wanted.top_p * float(weights.sum(dtype=np.float64))
    ids, weights = ids[weights >= wanted.min_p], weights[weights >= wanted.min_p]
    if wanted.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        n_kept = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), mass)) + 1
        ids, weights = ids[order[:n_kept]], weights[order[:n_kept]]
    cumulative = np.cumsum(weights, dtype=np.float64)
    return int(ids[np.searchsorted(cumulative, number * cumulative[-1], side="right")])


@pytest.mark.parametrize("n_vocab", [300, 4095, 4096, 4160, 20_000, 70_000])
@pytest.mark.parametrize(
    "wanted",
    [
        SamplingParams(),
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=2.0, min_p=0.0),
        SamplingParams(top_p=1.0),
        SamplingParams(top_p=0.3, top_k=1),
        SamplingParams(top_p=0.999, top_k=32, min_p=0.0, temperature=2.0),
        SamplingParams(top_p=0.999, top_k=150, min_p=0.0, temperature=2.0),
        SamplingParams(top_k=0),
        SamplingParams(top_k=0, min_p=0.0),
        SamplingParams(top_k=0, top_p=1.0),
        PLAIN,
        SamplingParams(repetition_penalty=1.3),
        SamplingParams(repetition_penalty=0.8, presence_penalty=0.5, frequency_penalty=-0.3),
        SamplingParams(temperature=0.0, presence_penalty=1.0, frequency_penalty=1.0),
        SamplingParams(repetition_penalty=2.0, temperature=1.5, logit_bias=((5, 1.5), (7, -2.0))),
    ],
    ids=repr,
)
def test_draws_what_is_drawn_plainly(wanted: SamplingParams, n_vocab: int) -> None:
    """Token by token: what a seed means does not depend on how the drawing is sped up."""
    if wanted is PLAIN and n_vocab > 65_536:
        return  # see `test_a_large_vocabulary_is_drawn_from_by_its_softmax`
    prompt = [5, 7, 7, n_vocab - 1]
    sampler = Sampler(replace(wanted, seed=n_vocab), prompt)
    random = np.random.Generator(np.random.PCG64(n_vocab)).random
    seen, generated = set(prompt), list[int]()
    for step in range(100 if n_vocab < 10_000 else 25):
        # Always near to the same logits, so that tokens come again, and penalties add up.
        logits = normal(0, n_vocab, 3.0) + normal(1 + step, n_vocab, 0.3)
        copied = logits.copy()
        number = random() if wanted.temperature else 0.0
        expected = drawn_plainly(copied, wanted, seen, generated, number)
        assert sampler.sample(logits) == expected, step
        assert np.array_equal(logits, copied), step
        seen.add(expected)
        generated.append(expected)


@pytest.mark.parametrize("n_vocab", [100, 5000, 70_000])
@pytest.mark.parametrize(
    "wanted",
    [
        SamplingParams(),
        SamplingParams(top_p=1.0, min_p=0.0),
        SamplingParams(top_p=0.6, top_k=0, min_p=0.0),
        SamplingParams(top_p=0.5, top_k=90),
        SamplingParams(top_p=1.0, top_k=0, temperature=2.0),
    ],
    ids=repr,
)
def test_equal_tokens_are_kept_by_their_ids(wanted: SamplingParams, n_vocab: int) -> None:
    """The set that is kept is that of sorting all of them, where many are equally likely."""
    sampler = Sampler(wanted, ())
    # Some ten that stand out, and others in groups of equal ones at any place.
    logits = 0.2 * np.random.default_rng(n_vocab).geometric(0.4, n_vocab).astype(np.float32)
    order = np.argsort(-logits, kind="stable")[: wanted.top_k or None]
    weights = np.exp((logits[order] - logits.max()) * np.float32(1 / wanted.temperature))
    cumulative = np.cumsum(weights, dtype=np.float64)
    mass = wanted.top_p * cumulative[-1]
    kept = set(order[(weights >= wanted.min_p) & (cumulative - weights < mass)].tolist())
    numbers = np.linspace(0, 1, 800 if len(kept) <= 100 else 30, endpoint=False).tolist()
    left = iter(numbers)
    sampler._random = lambda: next(left)  # type: ignore[assignment]
    found = {sampler.sample(logits.copy()) for _ in numbers}
    assert found == kept if len(kept) <= 100 else found < kept


@pytest.mark.parametrize(("temperature", "n_vocab"), [(0.7, 70_016), (1.0, 65_537), (2.0, 65_567)])
def test_a_large_vocabulary_is_drawn_from_by_its_softmax(temperature: float, n_vocab: int) -> None:
    logits = normal(3, n_vocab, 2.0)
    likely = [0, 1, 40_000, 40_001, n_vocab - 1]
    logits[likely] = 14.0, 13.5, 13.0, 12.0, 14.0
    logits[2:1000] = -np.inf
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    chances = weights / weights.sum()
    n = 6000
    sampler = Sampler(replace(PLAIN, temperature=temperature, seed=n_vocab), ())
    found = np.bincount([sampler.sample(logits) for _ in range(n)], minlength=n_vocab)
    # The likely ones, those that are ruled out, and tenths of the rest, within five deviations.
    parts = [[token] for token in likely] + np.array_split(np.arange(1000, 40_000), 10)
    for part in parts:
        chance = chances[part].sum()
        deviation = np.sqrt(n * chance * (1 - chance))
        assert abs(found[part].sum() - n * chance) < 5 * deviation + 1, part[0]
    assert not found[2:1000].any()
    logits[50_000] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        sampler.sample(logits)
