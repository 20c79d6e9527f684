"""Tests of the engine with a small model of every family, against the transformers library."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.model.byte_level import LETTERS
from shared.model.gguf import SCORES, TOKEN_FORM, TOKEN_TYPES, TOKENS, TokenType
from shared.model.gguf_reader import read_gguf
from shared.model.gguf_rewrite import rewrite
from shared.model.inspect import inspect
from tests.gguf_files import GGUFDraft, Tensor
from tests.models.reference import Reference, references
from worker.engines.base import SlotTokens
from worker.engines.ctransformers import CTransformersEngine

CASES = [
    pytest.param(reference, path, id=path.name)
    for reference in references().values()
    for path in reference.paths
]
SHORT = 120
"""A context shorter than that of the models, and longer than the prompt with its continuation."""


def is_ggcc(path: Path) -> bool:
    return path.read_bytes()[:4] == b"ccgg"


def evaluate(engine: CTransformersEngine, tokens: list[int]) -> NDArray[np.float32]:
    """Logits after the tokens, evaluated as the decode loop does it."""
    while True:
        n = engine.chunk_size(0)
        (logits,) = engine.forward([SlotTokens(0, tokens[:n])], 1)
        tokens = tokens[n:]
        if not tokens:
            assert logits is not None
            copied: NDArray[np.float32] = logits.copy()
            return copied


def as_current_tools_write_it(path: Path) -> GGUFDraft:
    """The same model with its vocabulary in letters, and nothing that old readers alone need."""
    file, content = read_gguf(path), path.read_bytes()
    draft = GGUFDraft()
    types = file.metadata[TOKEN_TYPES]
    for key, entry in file.entries.items():
        value = file.metadata[key]
        if key == TOKENS:
            value = [
                raw if kind == TokenType.CONTROL else "".join(LETTERS[byte] for byte in raw)
                for raw, kind in zip(value, types, strict=True)
            ]
        if key not in (TOKEN_FORM, SCORES):
            items = () if entry.item_type is None else (int(entry.item_type),)
            draft.metadata[key] = (int(entry.value_type), *items, value)
    for tensor in file.tensors:
        start = file.data_offset + tensor.offset
        data = content[start : start + tensor.n_bytes]
        draft.tensors[tensor.name] = Tensor(tensor.shape, data, tensor.ggml_type)
    if draft.tensors["output.weight"] == draft.tensors["token_embd.weight"]:
        del draft.tensors["output.weight"]
    return draft


@pytest.mark.parametrize("n_ctx", [None, SHORT])
@pytest.mark.parametrize(("reference", "path"), CASES)
def test_logits_are_those_of_the_reference(
    reference: Reference, path: Path, n_ctx: int | None
) -> None:
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=n_ctx))
    assert n_ctx is None or engine.info.n_ctx == n_ctx
    logits = evaluate(engine, reference.prompt_ids)
    compared = 0
    for generated, token in enumerate(reference.greedy_ids):
        if generated in reference.logits:
            compared += 1
            assert np.abs(logits - reference.logits[generated]).max() < 0.01
        assert int(logits.argmax()) == token
        logits = evaluate(engine, [token])
    assert compared == len(reference.logits) > 1


@pytest.mark.parametrize(("reference", "path"), CASES)
def test_what_was_in_the_cache_makes_no_difference(reference: Reference, path: Path) -> None:
    """To the bit; where the cache cannot be rewound, nothing of it is used."""
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=SHORT))
    tokens = [*reference.prompt_ids, *reference.greedy_ids][:80]
    for token in tokens:
        alone = evaluate(engine, [token])
    for n_cached in (0, 1, 31, 32, 33, 63, 64, 79):
        other = [*tokens[:n_cached], 1, 1]
        cached = engine.reuse_prefix(0, other[: n_cached + 1])
        assert cached == (0 if is_ggcc(path) else n_cached)
        assert np.array_equal(evaluate(engine, tokens[cached:]), alone), n_cached


@pytest.mark.parametrize(("reference", "path"), CASES)
def test_a_prompt_that_goes_on_from_the_cache_reuses_all_of_it(
    reference: Reference, path: Path
) -> None:
    """To the bit, in every family."""
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=SHORT))
    tokens = [*reference.prompt_ids, *reference.greedy_ids][:80]
    for token in tokens:
        alone = evaluate(engine, [token])
    for n_cached in (1, 2, 30, 31, 32, 33, 47, 62, 63, 64, 65, 79):
        assert engine.reuse_prefix(0, tokens[:1]) == 0
        evaluate(engine, tokens[:n_cached])
        assert engine.reuse_prefix(0, tokens) == n_cached
        assert np.array_equal(evaluate(engine, tokens[n_cached:]), alone), n_cached


@pytest.mark.parametrize(("reference", "path"), CASES)
def test_the_context_can_be_filled(reference: Reference, path: Path) -> None:
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=SHORT))
    tokens = (reference.prompt_ids * 3)[:SHORT]
    assert np.isfinite(evaluate(engine, tokens)).all()


@pytest.mark.parametrize(("reference", "path"), CASES)
def test_the_prompt_is_tokenized_as_by_the_reference(reference: Reference, path: Path) -> None:
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(path), n_ctx=SHORT))
    assert engine.tokenize([reference.prompt]) == reference.prompt_ids
    text = b"".join(map(engine.token_bytes, reference.greedy_ids))
    assert text.decode("utf-8", "replace") == reference.greedy_text


@pytest.mark.parametrize(
    ("reference", "path"), [case for case in CASES if str(case.id).endswith(".gguf")]
)
def test_a_current_file_is_rewritten_to_the_same_model(
    reference: Reference, path: Path, tmp_path: Path
) -> None:
    current = as_current_tools_write_it(path).write(tmp_path / "current.gguf")
    assert inspect(current).needs_rewrite
    rewrite(current, tmp_path / "rewritten.gguf")
    engine = CTransformersEngine(WorkerConfig("ctransformers", str(tmp_path / "rewritten.gguf")))
    pending = engine.tokenize([reference.prompt])
    assert pending == reference.prompt_ids
    for token in reference.greedy_ids:
        assert int(evaluate(engine, pending).argmax()) == token
        pending = [token]
