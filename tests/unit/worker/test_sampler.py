"""Tests of the sampler against a slow one that is written as the definitions are."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.sampling import SamplingParams
from worker.sampling.sampler import Sampler

Logits = NDArray[np.float32]


def params(
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = 1,
) -> SamplingParams:
    """Everything off, unlike the defaults of `SamplingParams`."""
    return SamplingParams(
        temperature,
        top_p,
        top_k,
        min_p,
        presence_penalty,
        frequency_penalty,
        repetition_penalty,
        seed,
    )


def random_logits(seed: int, n: int, spread: float = 3.0) -> Logits:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


def draws(wanted: SamplingParams, logits: Logits, n: int) -> list[int]:
    sampler = Sampler(wanted, ())
    return [sampler.sample(logits.copy()) for _ in range(n)]


def probabilities(logits: Sequence[float], wanted: SamplingParams) -> dict[int, float]:
    """The slow reference: penalties aside, what each token that is kept is drawn with."""
    ids = sorted(range(len(logits)), key=lambda token: -logits[token])
    if wanted.top_k > 0:
        ids = ids[: wanted.top_k]
    highest = logits[ids[0]]
    weights = [math.exp((logits[token] - highest) / wanted.temperature) for token in ids]
    total = math.fsum(weights)
    chances = [weight / total for weight in weights]
    kept: dict[int, float] = {}
    before = 0.0
    for token, chance in zip(ids, chances, strict=True):
        if before < wanted.top_p and chance >= wanted.min_p * chances[0]:
            kept[token] = chance
        before += chance
    total = math.fsum(kept.values())
    return {token: chance / total for token, chance in kept.items()}


class Fixed:
    """A source of randomness that sweeps evenly over [0, 1)."""

    def __init__(self, n: int) -> None:
        self.values = iter((np.arange(n) + 0.5) / n)

    def __call__(self) -> float:
        return float(next(self.values))


def swept(wanted: SamplingParams, logits: Logits, n: int = 1500) -> Counter[int]:
    """How often each token is drawn, of ``n`` draws spread evenly over the distribution."""
    sampler = Sampler(wanted, ())
    sampler._random = Fixed(n)  # type: ignore[assignment]
    return Counter(sampler.sample(logits.copy()) for _ in range(n))


def test_temperature_zero_is_greedy() -> None:
    for seed in range(20):
        logits = random_logits(seed, 300)
        assert draws(params(temperature=0.0, seed=None), logits, 3) == [int(logits.argmax())] * 3


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.array([1, 5, 5, 0], np.float32)
    assert draws(params(temperature=0.0), logits, 1) == [1]


@pytest.mark.parametrize("n_vocab", [5, 40, 1000])
@pytest.mark.parametrize(
    "wanted",
    [
        params(),
        params(temperature=0.3),
        params(temperature=2.0),
        params(top_k=1),
        params(top_k=3),
        params(top_k=40),
        params(top_k=10**9),
        params(top_p=0.01),
        params(top_p=0.5),
        params(top_p=0.95),
        params(min_p=0.02),
        params(min_p=0.5),
        params(min_p=1.0),
        params(temperature=1.7, top_p=0.9, top_k=20, min_p=0.1),
        params(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05),
        params(temperature=2.0, top_p=0.999, top_k=400, min_p=0.001),
    ],
    ids=lambda wanted: f"T{wanted.temperature}-p{wanted.top_p}-k{wanted.top_k}-m{wanted.min_p}",
)
def test_agrees_with_the_reference(wanted: SamplingParams, n_vocab: int) -> None:
    n = 1500
    for seed in range(3):
        logits = random_logits(seed, n_vocab)
        expected = probabilities(logits.tolist(), wanted)
        found = swept(wanted, logits, n)
        assert set(found) <= set(expected)
        # An even sweep meets every token as often as is its share, but for one at each end.
        for token, chance in expected.items():
            assert abs(found[token] - chance * n) <= 1.01, token


def test_a_flat_nucleus_is_wider_than_the_first_guess() -> None:
    logits = random_logits(5, 20_000, spread=0.01)
    wanted = params(top_p=0.5)
    expected = probabilities(logits.tolist(), wanted)
    assert len(expected) > 128 * 8
    sampler = Sampler(wanted, ())
    found = []
    for drawn in (0.0, 0.5, 1.0 - 2**-53):
        sampler._random = lambda drawn=drawn: drawn  # type: ignore[assignment]
        found.append(sampler.sample(logits.copy()))
    ranked = list(expected)  # the likeliest first
    half = next(
        n for n in range(len(ranked)) if sum(expected[token] for token in ranked[: n + 1]) > 0.5
    )
    assert found == [ranked[0], ranked[half], ranked[-1]]


def test_distribution_at_a_temperature() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    n = 20_000
    found = Counter(draws(params(temperature=2.0, seed=3), logits, n))
    expected = np.sqrt([0.4, 0.3, 0.2, 0.1])
    expected *= n / expected.sum()
    chi_square = sum((found[i] - expected[i]) ** 2 / expected[i] for i in range(4))
    assert chi_square < 16.27  # p = 0.001 with 3 degrees of freedom; the seed is fixed


def test_same_seed_same_tokens() -> None:
    logits = random_logits(1, 1000, spread=1.0)
    assert draws(params(seed=11), logits, 50) == draws(params(seed=11), logits, 50)
    assert draws(params(seed=11), logits, 50) != draws(params(seed=12), logits, 50)
    assert draws(params(seed=None), logits, 50) != draws(params(seed=None), logits, 50)


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1, 2**64 - 1])
def test_any_64_bit_seed_will_do(seed: int) -> None:
    logits = random_logits(1, 100)
    assert draws(params(seed=seed), logits, 5) == draws(params(seed=seed), logits, 5)


def penalized(
    logits: Iterable[float], wanted: SamplingParams, prompt: list[int], generated: list[int]
) -> list[float]:
    """The slow reference of the penalties."""
    result = list(logits)
    for token in {*prompt, *generated}:
        value = result[token]
        factor = wanted.repetition_penalty
        result[token] = value / factor if value > 0 else value * factor
    for token, count in Counter(generated).items():
        result[token] -= wanted.presence_penalty + wanted.frequency_penalty * count
    return result


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6),
    prompt=st.lists(st.integers(0, 5), max_size=6),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.floats(0.5, 2),
    n_steps=st.integers(1, 6),
)
def test_penalties_follow_the_formulas(
    logits: list[float],
    prompt: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    n_steps: int,
) -> None:
    wanted = params(
        temperature=0.0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
    )
    sampler = Sampler(wanted, prompt)
    generated: list[int] = []
    for _ in range(n_steps):
        changed = np.array(logits, np.float32)
        token = sampler.sample(changed)
        expected = penalized(logits, wanted, prompt, generated)
        assert changed.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert token == int(changed.argmax())
        generated.append(token)


def test_presence_and_frequency_do_not_count_the_prompt() -> None:
    sampler = Sampler(params(temperature=0.0, presence_penalty=2, frequency_penalty=2), [0, 0, 0])
    assert sampler.sample(np.array([1.0, 0.5], np.float32)) == 0
    assert sampler.sample(np.array([1.0, 0.5], np.float32)) == 1


def test_repetition_counts_the_prompt() -> None:
    sampler = Sampler(params(temperature=0.0, repetition_penalty=3.0), [0])
    assert sampler.sample(np.array([1.0, 0.5], np.float32)) == 1


def test_without_penalties_the_logits_are_left_alone() -> None:
    logits = random_logits(1, 50)
    before = logits.copy()
    Sampler(params(top_k=5, top_p=0.9, min_p=0.1), [1, 2]).sample(logits)
    assert np.array_equal(logits, before)


def with_value(value: float, at: int = 2) -> Logits:
    logits = random_logits(1, 8)
    logits[at] = value
    return logits


@pytest.mark.parametrize(
    "logits",
    [with_value(math.nan), with_value(math.inf), np.full(8, -math.inf, np.float32)],
    ids=["nan", "inf", "all -inf"],
)
@pytest.mark.parametrize(
    "wanted", [params(0.0), params(), SamplingParams(seed=1)], ids=["greedy", "plain", "default"]
)
def test_logits_without_a_maximum_are_an_engine_error(
    logits: Logits, wanted: SamplingParams
) -> None:
    with pytest.raises(EngineError, match="not finite"):
        Sampler(wanted, ()).sample(logits.copy())


@pytest.mark.parametrize(
    "wanted", [params(), params(top_k=3), params(top_p=0.9), params(min_p=0.001)]
)
def test_a_token_ruled_out_is_never_drawn(wanted: SamplingParams) -> None:
    logits = with_value(-math.inf)
    assert 2 not in swept(wanted, logits)


def test_one_possible_token_among_many() -> None:
    logits = np.full(1000, -math.inf, np.float32)
    logits[700] = -3
    for wanted in (params(), params(top_k=5), params(top_p=0.5), SamplingParams(seed=1)):
        assert draws(wanted, logits, 5) == [700] * 5


@pytest.mark.parametrize("temperature", [1e-4, 1e-9, 1e-30, 1e-39, 1e-310, 5e-324])
@pytest.mark.parametrize("lowest", [-1e9, -math.inf, 0.0])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float, lowest: float) -> None:
    logits = np.array([lowest, 1.0, 2.0, 4.0], np.float32)
    for wanted in (params(temperature), params(temperature, top_p=0.9, top_k=2, min_p=0.1)):
        assert draws(wanted, logits, 20) == [3] * 20


def test_high_logits_do_not_overflow() -> None:
    logits = np.array([3e38, 2.9e38, -3e38], np.float32)
    assert draws(params(), logits, 20) == [0] * 20


def test_the_highest_draw_stays_within_the_vocabulary() -> None:
    logits = random_logits(2, 100)
    sampler = Sampler(params(), ())
    sampler._random = lambda: 1.0 - 2**-53  # type: ignore[assignment]
    assert 0 <= sampler.sample(logits) < 100


def test_vocabulary_of_one() -> None:
    for wanted in (params(), params(0.0), SamplingParams(seed=1)):
        assert draws(wanted, np.array([-7.0], np.float32), 3) == [0] * 3


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


def test_a_bias_comes_behind_the_penalties_and_before_the_temperature() -> None:
    wanted = params(temperature=2.0, repetition_penalty=2.0)
    logits = np.array([4.0, 1.0, 1.0], np.float32)
    n = 1500
    sampler = Sampler(replace(wanted, logit_bias=((0, 1.0),)), [0])
    sampler._random = Fixed(n)  # type: ignore[assignment]
    sampler._penalties.add = lambda token: None  # type: ignore[union-attr, method-assign]
    found = Counter(sampler.sample(logits.copy()) for _ in range(n))
    expected = probabilities([4.0 / 2 + 1.0, 1.0, 1.0], params(temperature=2.0))
    for token, chance in expected.items():
        assert abs(found[token] - chance * n) <= 1.01, token


def test_a_bias_helps_no_token_that_is_not_allowed() -> None:
    logits = random_logits(1, 5000)
    sampler = Sampler(biased((7, 100.0)), ())
    assert sampler.sample(logits.copy(), mask_of(5000, [3, 4])) in (3, 4)
    assert sampler.sample(logits.copy(), ~mask_of(5000, [7])) != 7


@pytest.mark.parametrize("n_allowed", [2, 4500])
def test_allowed_tokens_without_a_number_are_an_engine_error(n_allowed: int) -> None:
    logits = np.zeros(5000, np.float32)
    logits[:n_allowed] = -math.inf
    for wanted in (params(), params(0.0), SamplingParams(seed=1)):
        with pytest.raises(EngineError, match="not finite"):
            Sampler(wanted, ()).sample(logits.copy(), mask_of(5000, range(n_allowed)))
