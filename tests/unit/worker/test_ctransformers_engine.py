"""Tests of the engine on ctransformers, with a small model of random weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError, ModelFileError
from shared.model.gguf_rewrite import rewrite
from tests.gguf_files import tiny_llama
from worker import engines
from worker.engines import library as engine_library
from worker.engines.base import SlotTokens, common_prefix
from worker.engines.ctransformers import CTransformersEngine

N_CTX = 128
PROMPT = [3 + byte for byte in b"the quick brown fox"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    source = tiny_llama("letters").write(folder / "letters.gguf")
    rewrite(source, folder / "tiny.gguf")
    return folder / "tiny.gguf"


def load(path: Path, n_ctx: int | None = N_CTX) -> CTransformersEngine:
    return CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=n_ctx))


@pytest.fixture(scope="module")
def loaded(path: Path) -> CTransformersEngine:
    return load(path)


@pytest.fixture
def engine(loaded: CTransformersEngine) -> CTransformersEngine:
    loaded.reuse_prefix(0, [0])  # nothing below has a token 0 in front: the cache is empty
    return loaded


def evaluate(engine: CTransformersEngine, tokens: list[int]) -> NDArray[np.float32]:
    (logits,) = engine.forward([SlotTokens(0, tokens)], 1)
    assert logits is not None
    copied: NDArray[np.float32] = logits.copy()
    return copied


def test_is_loaded_by_name(path: Path) -> None:
    engine = engines.load(WorkerConfig("ctransformers", str(path)))
    assert isinstance(engine, CTransformersEngine)
    assert engine.info.n_ctx == 512


def test_describes_the_model(engine: CTransformersEngine) -> None:
    info = engine.info
    assert (info.family, info.n_ctx, info.n_vocab) == ("llama", N_CTX, 292)
    assert (info.bos_token, info.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert info.chat_template is not None
    assert engine.eog == {0, 2}


def test_tokens_and_text(engine: CTransformersEngine) -> None:
    ids = engine.tokenize(["", "<|im_start|>", "hello é\n"])
    assert ids[0] == 1
    assert 1 not in engine.tokenize(["<|im_start|>hello"])
    assert b"".join(map(engine.token_bytes, ids)).decode() == "hello é\n"


def test_sentencepiece_text_is_tokenized_by_the_library(tmp_path: Path) -> None:
    engine = load(tiny_llama("spm").write(tmp_path / "spm.gguf"))
    for text in ("hello the hello", "é日🙂", "", "\0x", "a" * 1000):
        ids = engine.tokenize([text])
        assert ids[0] == 1
        decoded = b"".join(map(engine.token_bytes, ids)).decode()
        assert decoded.removeprefix(" ").replace("\0 ", "\0") == text
    assert engine.tokenize(["", "</s>"])[-1] == 2


def test_logits_do_not_depend_on_what_was_in_the_cache(rewritten_demo: Path) -> None:
    """To the bit: with a real quantised model any rounding grows to tenths of a logit."""
    engine = load(rewritten_demo, 256)
    text = "The sea was calm that night, and the harbour lay still. " * 10
    prompt = engine.tokenize([text])[:66]

    def after(n_cached: int) -> NDArray[np.float32]:
        pending = prompt[n_cached:]
        while True:
            n = engine.chunk_size(0)
            logits = evaluate(engine, pending[:n])
            pending = pending[n:]
            if not pending:
                return logits

    for token in prompt:
        alone = evaluate(engine, [token])
    for n_cached in (0, 31, 32, 33, 64):
        assert engine.reuse_prefix(0, [*prompt[:n_cached], 0, 0][: n_cached + 1]) == n_cached
        assert np.array_equal(after(n_cached), alone), n_cached


def test_threads_make_no_difference(engine: CTransformersEngine) -> None:
    whole = evaluate(engine, PROMPT)
    engine.reuse_prefix(0, [0])
    (logits,) = engine.forward([SlotTokens(0, PROMPT)], 2)
    assert logits is not None
    assert np.allclose(logits, whole, atol=1e-3)


def test_the_last_token_is_always_evaluated(engine: CTransformersEngine) -> None:
    whole = evaluate(engine, PROMPT)
    assert engine.reuse_prefix(0, PROMPT) == len(PROMPT) - 1
    assert np.allclose(evaluate(engine, PROMPT[-1:]), whole, atol=1e-3)
    assert engine.reuse_prefix(0, PROMPT[:4]) == 3
    assert engine.reuse_prefix(0, [7, 8]) == 0


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_acommon_prefix_is_found_to_the_token(some: list[int], others: list[int]) -> None:
    limit = min(len(some), len(others))
    expected = next((n for n in range(limit) if some[n] != others[n]), limit)
    assert common_prefix(some, others) == expected


@pytest.mark.parametrize(
    "tokens",
    [[], [-1], [292], [5, 2**31 - 1], [5, -(2**31)], [2**40], [5] * 513, [5] * (N_CTX + 1)],
    ids=lambda tokens: f"{len(tokens)} tokens to {tokens[-1:]}",
)
def test_what_would_end_the_process_is_an_engine_error(
    engine: CTransformersEngine, tokens: list[int]
) -> None:
    with pytest.raises(EngineError, match=r"do not fit|outside the vocabulary"):
        engine.forward([SlotTokens(0, tokens)], 1)
    before = evaluate(engine, PROMPT)
    engine.reuse_prefix(0, [0])
    assert np.array_equal(evaluate(engine, PROMPT), before)


def test_the_context_can_be_filled_but_not_overrun(engine: CTransformersEngine) -> None:
    tokens = [5 + n for n in range(N_CTX)]
    while tokens:
        n = engine.chunk_size(0)
        assert np.isfinite(evaluate(engine, tokens[:n])).all()
        del tokens[:n]
    with pytest.raises(EngineError, match="1 tokens after 128 do not fit the context"):
        evaluate(engine, [7])


@pytest.mark.parametrize("n_ctx", [513, 1 << 30, -1])
def test_context_beyond_the_training_is_refused(path: Path, n_ctx: int) -> None:
    with pytest.raises(EngineError, match=rf"{n_ctx} is outside 1\.\.512"):
        load(path, n_ctx)


def test_a_bad_file_does_not_reach_the_library(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Library:
        called: bool = False

        def __call__(self, *arguments: object, **options: object) -> None:
            self.called = True
            raise AssertionError("the library was given a bad file")

    library = Library()
    monkeypatch.setattr(engine_library, "load_library", library)
    bad = tmp_path / "bad.gguf"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:100], b"", b"GGUF", whole + b"x"):
        bad.write_bytes(content)
        with pytest.raises(ModelFileError):
            load(bad)
    tiny_llama("letters").write(bad)
    with pytest.raises(EngineError, match="rewritten"):
        load(bad)
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(tmp_path / "missing.gguf")
    assert not library.called
    path.with_name("whole.gguf").write_bytes(whole)
    with pytest.raises(AssertionError, match="bad file"):
        load(path.with_name("whole.gguf"))


def test_what_the_library_refuses_is_an_engine_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_library, "library_variant", lambda: "no-such-variant")
    with pytest.raises(EngineError, match="library could not be loaded"):
        load(path)
