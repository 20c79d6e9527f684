"""Tests of the sampler against a slow one that is written as the definitions are."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.sampling import SamplingParams
from worker.sampling.penalties import Penalties
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
    for seed in range(2):
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
    half = next(n for n, total in enumerate(accumulate(expected.values())) if total > 0.5)
    assert found == [ranked[0], ranked[half], ranked[-1]]


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


@pytest.mark.parametrize("temperature", [1e-4, 1e-9, 1e-30, 1e-39, 1e-310, 5e-324])
@pytest.mark.parametrize("lowest", [-1e9, -math.inf, 0.0])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float, lowest: float) -> None:
    logits = np.array([lowest, 1.0, 2.0, 4.0], np.float32)
    for wanted in (params(temperature), params(temperature, top_p=0.9, top_k=2, min_p=0.1)):
        assert draws(wanted, logits, 20) == [3] * 20


def test_high_logits_do_not_overflow() -> None:
    logits = np.array([3e38, 2.9e38, -3e38], np.float32)
    assert draws(params(), logits, 20) == [0] * 20


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
