"""Tests of the engine without a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import WorkerConfig
from shared.errors import EngineError
from worker import engines
from worker.engines.base import Engine, SlotTokens
from worker.engines.echo import EchoEngine


def echo(n_ctx: int | None = None) -> EchoEngine:
    return EchoEngine(WorkerConfig("echo", n_ctx=n_ctx))


def generate(engine: Engine, prompt: list[int]) -> list[int]:
    """Greedy tokens after ``prompt``, up to the end of the generation."""
    pending = prompt[engine.reuse_prefix(0, prompt) :]
    tokens: list[int] = []
    while True:
        (logits,) = engine.forward([SlotTokens(0, pending)], 1)
        assert logits is not None
        token = int(np.argmax(logits))
        if token in engine.eog:
            return tokens
        tokens.append(token)
        pending = [token]


def test_is_loaded_by_name() -> None:
    assert isinstance(engines.load(WorkerConfig("echo")), EchoEngine)
    with pytest.raises(EngineError, match="'ecko'; there are: ctransformers, llamacpp, echo"):
        engines.load(WorkerConfig("ecko"))


@given(st.text(min_size=1, max_size=40))
def test_answers_with_the_prompt(text: str) -> None:
    engine = echo()
    tokens = generate(engine, engine.tokenize(text))
    assert b"".join(map(engine.token_bytes, tokens)).decode() == text


@given(st.lists(st.text("ab", min_size=1, max_size=8), max_size=6))
def test_what_is_cached_makes_no_difference(prompts: list[str]) -> None:
    engine = echo()
    for prompt in prompts:
        tokens = engine.tokenize(prompt)
        assert generate(engine, tokens) == tokens


def test_reuses_a_prefix_but_evaluates_the_last_token() -> None:
    engine = echo()
    prompt = engine.tokenize("hello")
    assert engine.reuse_prefix(0, prompt) == 0
    engine.forward([SlotTokens(0, prompt)], 1)
    assert engine.reuse_prefix(0, prompt) == 4
    assert engine.reuse_prefix(0, engine.tokenize("help me")) == 3
    assert engine.reuse_prefix(0, engine.tokenize("x")) == 0
