"""What a mask rules out, and what a bias adds, whatever the other parameters are."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.sampling import SamplingParams
from tests.unit.worker.test_sampler import Fixed, draws, params, probabilities, random_logits
from worker.sampling.sampler import Sampler

Mask = NDArray[np.bool_]

# Every combination of parameters, at their ends and between.
any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-9, 0.1, 0.8, 1.0, 2.0]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 40, 10**6]),
    min_p=st.sampled_from([0.0, 0.05, 0.9, 1.0]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    frequency_penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    repetition_penalty=st.sampled_from([0.01, 1.0, 10.0]),
    seed=st.integers(-(2**63), 2**64),
    logit_bias=st.dictionaries(
        st.integers(0, 4), st.sampled_from([-100.0, 0.5, 100.0]), max_size=3
    ).map(lambda biases: tuple(sorted(biases.items()))),
)


def mask_of(n_vocab: int, ids: Iterable[int]) -> Mask:
    allowed = np.zeros(n_vocab, np.bool_)
    allowed[list(ids)] = True
    return allowed


@settings(deadline=None)
@given(
    wanted=any_params,
    n_vocab=st.sampled_from([5, 300, 5000, 12_000]),
    share=st.sampled_from([0.0, 0.01, 0.5, 0.999, 1.0]),
    spread=st.sampled_from([0.0, 3.0, 1000.0]),
    seed=st.integers(0, 2**32),
)
def test_no_token_is_drawn_that_is_not_allowed(
    wanted: SamplingParams, n_vocab: int, share: float, spread: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    allowed = random.random(n_vocab) < share
    allowed[seed % n_vocab] = True
    sampler = Sampler(wanted, [0, 1, 2])
    for drawn in (None, 0.0, 1.0 - 2**-53):
        if drawn is not None:  # the lowest and the highest that there is
            sampler._random = lambda drawn=drawn: drawn  # type: ignore[assignment]
        logits = random_logits(seed, n_vocab, spread)
        before = allowed.copy()
        assert allowed[sampler.sample(logits, allowed)]
        assert np.array_equal(allowed, before)


@pytest.mark.parametrize("n_vocab", [40, 5000, 12_000])
@pytest.mark.parametrize("n_allowed", [2, 30, 4999])
@pytest.mark.parametrize(
    "wanted",
    [
        params(),
        params(temperature=0.5, top_k=5),
        params(top_p=0.7),
        params(temperature=1.7, top_p=0.9, top_k=20, min_p=0.1),
        params(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05),
    ],
    ids=lambda wanted: f"T{wanted.temperature}-p{wanted.top_p}-k{wanted.top_k}-m{wanted.min_p}",
)
def test_what_is_allowed_shares_out_all_of_the_distribution(
    wanted: SamplingParams, n_allowed: int, n_vocab: int
) -> None:
    # A spread that leaves few tokens with any weight, of many that are allowed.
    logits = random_logits(7, n_vocab, spread=8.0 if n_allowed > 100 else 2.0)
    order = np.random.default_rng(3).permutation(n_vocab)
    ids = sorted(order[: min(n_allowed, n_vocab)].tolist())
    expected = {
        ids[place]: chance for place, chance in probabilities(logits[ids].tolist(), wanted).items()
    }
    n = 1500
    sampler = Sampler(wanted, ())
    sampler._random = Fixed(n)  # type: ignore[assignment]
    allowed = mask_of(n_vocab, ids)
    found = Counter(sampler.sample(logits.copy(), allowed) for _ in range(n))
    assert set(found) <= set(expected)
    for token, chance in expected.items():
        assert abs(found[token] - chance * n) <= 1.01, token


def test_the_likeliest_that_is_allowed_is_greedy() -> None:
    logits = random_logits(1, 6000)
    order = np.argsort(-logits).tolist()
    for ids in (order[5:6], order[3:5], order[2:]):
        drawn = Sampler(params(0.0), ()).sample(logits.copy(), mask_of(6000, ids))
        assert drawn == ids[0]


def test_all_allowed_is_as_good_as_no_mask() -> None:
    logits = random_logits(1, 6000)
    for wanted in (params(0.0), params(), SamplingParams(seed=1), params(top_k=7)):
        free, bound = Sampler(wanted, ()), Sampler(wanted, ())
        everything = np.ones(6000, np.bool_)
        for _ in range(20):
            assert bound.sample(logits.copy(), everything) == free.sample(logits.copy())


def test_a_mask_does_not_change_what_a_penalty_counts() -> None:
    sampler = Sampler(params(temperature=0.0, frequency_penalty=1.0), ())
    logits = np.array([5.0, 4.5, 4.0], np.float32)
    assert sampler.sample(logits.copy(), mask_of(3, [1])) == 1
    assert sampler.sample(logits.copy(), mask_of(3, [1, 2])) == 2
    assert sampler.sample(logits.copy()) == 0


def biased(*biases: tuple[int, float]) -> SamplingParams:
    return SamplingParams(temperature=0.0, logit_bias=biases)


def test_biases_are_added_to_the_logits() -> None:
    logits = np.array([3.0, 2.0, 1.0], np.float32)
    sampler = Sampler(biased((0, -2.5), (2, 0.25)), ())
    changed = logits.copy()
    assert sampler.sample(changed) == 1
    assert changed.tolist() == [0.5, 2.0, 1.25]
    # Each time anew, to the model's logits.
    assert sampler.sample(logits.copy()) == 1


def test_a_bias_at_its_end_rules_out_or_in() -> None:
    logits = random_logits(1, 300)
    best = int(logits.argmax())
    free = SamplingParams(temperature=2.0, top_p=1.0, top_k=0, min_p=0.0, seed=3)
    banned = replace(free, logit_bias=((best, -100.0),))
    forced = replace(free, logit_bias=((7, 100.0),))
    assert best not in draws(banned, logits, 300)
    assert set(draws(forced, logits, 300)) == {7}


@pytest.mark.parametrize("n_allowed", [2, 4500])
def test_allowed_tokens_without_a_number_are_an_engine_error(n_allowed: int) -> None:
    logits = np.zeros(5000, np.float32)
    logits[:n_allowed] = -math.inf
    for wanted in (params(), params(0.0), SamplingParams(seed=1)):
        with pytest.raises(EngineError, match="not finite"):
            Sampler(wanted, ()).sample(logits.copy(), mask_of(5000, range(n_allowed)))
