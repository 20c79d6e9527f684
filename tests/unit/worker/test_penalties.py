"""Tests of the penalties' bookkeeping; their formulas are tested with the sampler."""

import numpy as np

from shared.sampling import SamplingParams
from worker.sampling.penalties import Penalties


def test_parameters_that_change_nothing_need_none() -> None:
    assert Penalties.of(SamplingParams(), [1, 2]) is None
    for wanted in (
        SamplingParams(presence_penalty=0.1),
        SamplingParams(frequency_penalty=-0.1),
        SamplingParams(repetition_penalty=1.1),
    ):
        assert Penalties.of(wanted, [1, 2]) is not None


def test_nothing_seen_changes_nothing() -> None:
    penalties = Penalties(SamplingParams(presence_penalty=1.0), [1, 2])
    logits = np.arange(5, dtype=np.float32)
    penalties.apply(logits)
    assert logits.tolist() == [0, 1, 2, 3, 4]


def test_any_number_of_tokens_may_be_seen() -> None:
    n_vocab = 2000
    penalties = Penalties(
        SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25),
        [0, 0, 1],
    )
    counts = np.zeros(n_vocab)
    generator = np.random.default_rng(1)
    for step in range(3000):
        # More and more different tokens, the old ones again and again.
        token = int(generator.integers(0, 1 + step // 2))
        penalties.add(token)
        counts[token] += 1
    seen = counts > 0
    seen[:2] = True
    logits = np.where(np.arange(n_vocab) % 2, 1.0, -1.0).astype(np.float32)
    expected = np.where(seen, np.where(logits > 0, logits / 2, logits * 2), logits)
    expected = expected - np.where(counts > 0, 0.5 + 0.25 * counts, 0)
    penalties.apply(logits)
    assert np.array_equal(logits, expected.astype(np.float32))
