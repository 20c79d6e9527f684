"""Log probabilities against a softmax in 64 bits that is written as the definition is."""

import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError
from worker.engines.echo import EchoEngine
from worker.sampling.logprobs import Logprobs

LEAST = -9999.0


class Vocabulary(EchoEngine):
    """The echo engine with any number of tokens; those from 256 on are control tokens."""

    def __init__(self, n_vocab: int) -> None:
        super().__init__(WorkerConfig("echo"))
        object.__setattr__(self.info, "n_vocab", n_vocab)

    def token_name(self, token: int) -> str:
        return super().token_name(token) if token < 256 else f"<é{token}>"


def raw(token: int) -> str:
    return chr(token) if token < 256 else f"<é{token}>".encode().decode("latin-1")


def reference(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logarithm of the softmax."""
    values = logits.astype(np.float64)
    highest = values.max()
    shifted = values - highest
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return np.maximum(found, LEAST)


def ranked(logits: NDArray[np.float32]) -> list[int]:
    """The likeliest first; equal ones by id."""
    return sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))


def random_logits(seed: int, n: int, spread: float) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


# Those of 5,000 and more are found by the maxima of groups.
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n_vocab=st.sampled_from([1, 2, 5, 40, 300, 5000, 5001, 32_003]),
    n_top=st.integers(0, 20),
    spread=st.sampled_from([0.0, 0.01, 1.0, 5.0, 50.0, 1e4]),
    ties=st.booleans(),
    ruled_out=st.booleans(),
)
def test_they_are_those_of_the_definition(
    seed: int, n_vocab: int, n_top: int, spread: float, ties: bool, ruled_out: bool
) -> None:
    logits = random_logits(seed, n_vocab, spread)
    if ties:
        logits = np.round(logits)
    if ruled_out:
        logits[np.random.default_rng(seed).integers(0, n_vocab, n_vocab // 2)] = -math.inf
        logits[seed % n_vocab] = 0.0
    expected = reference(logits)
    logprobs = Logprobs(Vocabulary(n_vocab), n_top)
    before = logits.copy()
    logprobs.look(logits)
    assert np.array_equal(logits, before)
    best = ranked(logits)[:n_top]
    for token in {0, n_vocab - 1, seed % n_vocab, *best}:
        told = logprobs.of(token)
        assert told.chosen.raw == raw(token)
        assert told.chosen.is_control == (token >= 256)
        assert told.chosen.logprob == pytest.approx(expected[token], rel=1e-5, abs=2e-5)
        assert [top.raw for top in told.top] == [raw(other) for other in best]
        values = [top.logprob for top in told.top]
        assert values == pytest.approx(expected[best].tolist(), rel=1e-5, abs=2e-5)


def test_they_are_of_what_was_looked_at_whatever_becomes_of_it() -> None:
    logits = random_logits(1, 300, 3.0)
    expected = reference(logits)
    logprobs = Logprobs(Vocabulary(300), 1)
    logprobs.look(logits)
    logits[:] = -math.inf
    assert logprobs.of(7).chosen.logprob == pytest.approx(expected[7], abs=2e-5)
    logprobs.look(random_logits(2, 300, 3.0))
    assert logprobs.of(7).chosen.logprob != pytest.approx(expected[7], abs=2e-5)


@pytest.mark.parametrize("n_vocab", [8, 5000])
def test_what_cannot_come_is_as_unlikely_as_a_number_can_say(n_vocab: int) -> None:
    logits = np.full(n_vocab, -math.inf, np.float32)
    logits[3], logits[4] = 0.0, -1e9
    logprobs = Logprobs(Vocabulary(n_vocab), 3)
    logprobs.look(logits)
    told = logprobs.of(0)
    assert (told.chosen.logprob, logprobs.of(3).chosen.logprob) == (LEAST, 0.0)
    assert [(top.raw, top.logprob) for top in told.top[:2]] == [("\3", 0.0), ("\4", LEAST)]


def test_large_logits_do_not_overflow() -> None:
    logprobs = Logprobs(Vocabulary(3), 1)
    logprobs.look(np.array([3e38, -3e38, 3e38], np.float32))
    assert logprobs.of(0).chosen.logprob == pytest.approx(-math.log(2))
    assert logprobs.of(1).chosen.logprob == LEAST


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("n_vocab", [8, 5000])
@pytest.mark.parametrize("n_top", [0, 3])
def test_logits_that_are_no_numbers_are_an_engine_error(
    value: float, n_vocab: int, n_top: int
) -> None:
    logits = random_logits(1, n_vocab, 1.0)
    logits[5] = value
    for wrong in (logits, np.full(n_vocab, -math.inf, np.float32)):
        with pytest.raises(EngineError, match="not finite"):
            Logprobs(Vocabulary(n_vocab), n_top).look(wrong)


class Halves(Vocabulary):
    TEXTS: ClassVar = {0: b"\xc3", 1: b"\xa9", 2: "é".encode()}

    def token_bytes(self, token: int) -> bytes:
        return self.TEXTS.get(token) or super().token_bytes(token)


def test_tokens_keep_their_bytes() -> None:
    logprobs = Logprobs(Halves(257), 3)
    logprobs.look(np.arange(257, 0, -1, dtype=np.float32))
    assert [top.bytes for top in logprobs.of(0).top] == [b"\xc3", b"\xa9", "é".encode()]
    end = logprobs.of(256).chosen
    assert (end.bytes.decode(), end.is_control) == ("<é256>", True)
