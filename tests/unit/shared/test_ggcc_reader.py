"""Tests of what the engine makes of ggcc files otherwise than their headers say."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.inspect import inspect
from tests.gguf_files import Tensor
from tests.legacy_files import LegacyDraft, tiny_ggcc, weights

PAD, WIDTH, USUAL = b"[PAD]", 4544, 65_024
EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
EVALUATE = """
import hashlib, sys
from ctransformers import LLM, Config
llm = LLM(sys.argv[1], "falcon", lib="avx2", config=Config(context_length=64, threads=1))
llm.eval([40, 290, 11])
logits = llm.logits
assert len(set(logits)) > 1 and all(logit == logit for logit in logits)
print(llm.vocab_size, len(logits), hashlib.sha256(repr(list(logits)).encode()).hexdigest())
"""


def evaluated(path: Path) -> tuple[int, int, str]:
    """Vocabulary, number of logits, and their hash, by ctransformers in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    n_vocab, n_logits, digest = done.stdout.split()[-3:]
    return int(n_vocab), int(n_logits), digest


@pytest.mark.parametrize("falcon_type", [7, 40])
def test_sixty_layers_are_40b(tmp_path: Path, falcon_type: int) -> None:
    """ggllm.cpp's converter writes either type into their headers."""
    draft = tiny_ggcc(n_layer=60, n_head_kv=2, falcon_type=falcon_type)
    model = inspect(draft.write(tmp_path / "x.bin"))
    assert (model.size.n_layer, model.details) == (60, {"falcon_type": 40})
    assert "transformer.h.59.ln_attn.weight" in {tensor.name for tensor in model.tensors}
    usual = tiny_ggcc(n_layer=60, n_head_kv=2, falcon_type=40).write(tmp_path / "usual.bin")
    assert model.memory == inspect(usual).memory
    assert evaluated(model.path) == evaluated(usual)


def padded(n_words: int, n_rows: dict[str, int], width: int = WIDTH) -> LegacyDraft:
    """A model of the width of Falcon-7B, but without layers' weights, that takes little room."""
    draft = tiny_ggcc(n_vocab=n_words, n_embd=width, n_head=71, n_layer=1, wtype=2, empty=True)
    draft.tensors["transformer.ln_f.weight"].data = struct.pack(f"<{width}f", *[1.0] * width)
    rows = weights(1, (width, 300), 2)
    for name in (EMBEDDING, HEAD):
        draft.tensors[name] = Tensor((width, n_rows.get(name, n_words)), rows, 2)
    return draft


def test_padded_vocabularies(tmp_path: Path) -> None:
    """With the token ``[PAD]`` and without it, with its row in the matrices and without it."""
    plain = padded(USUAL, {}).write_sparse(tmp_path / "plain.bin")
    expected = evaluated(plain)
    assert expected[:2] == (USUAL, USUAL)
    variants = [
        (USUAL, {EMBEDDING: USUAL + 1}),
        (USUAL, {HEAD: USUAL + 1}),
        (USUAL + 1, {}),
        (USUAL + 1, {EMBEDDING: USUAL, HEAD: USUAL}),
    ]
    for n_words, rows in variants:
        draft = padded(n_words, rows)
        if n_words > USUAL:
            draft.words[-1] = PAD
        path = draft.write_sparse(tmp_path / "padded.bin")
        model = inspect(path)
        assert (model.n_vocab, len(model.tokens)) == (USUAL, USUAL)
        assert evaluated(path) == expected


def refused(draft: LegacyDraft, path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        inspect(draft.write_sparse(path))
    return str(caught.value)


def test_vocabularies_that_the_engine_would_cut_wrongly(tmp_path: Path) -> None:
    """It takes a row less of each matrix, but goes on to read as many logits as there are words."""
    said = refused(padded(USUAL + 1, {}), tmp_path / "x.bin")
    assert "at a width of 4544 the engine can leave out the last one only if that is [PAD]" in said
    other_width = tiny_ggcc(n_vocab=USUAL + 1, empty=True)
    assert inspect(other_width.write_sparse(tmp_path / "x.bin")).n_vocab == USUAL + 1


def test_rows_that_the_engine_does_not_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for draft, said in (
        (padded(USUAL, {HEAD: USUAL + 2}), "lm_head.weight has the shape (4544, 65026)"),
        (padded(USUAL - 1, {HEAD: USUAL}), "lm_head.weight has the shape (4544, 65024)"),
        (padded(USUAL, {HEAD: USUAL + 1}, 71 * 32), "lm_head.weight has the shape (2272, 65025)"),
    ):
        assert said in refused(draft, path)
    draft = tiny_ggcc(n_vocab=USUAL + 1, empty=True)
    draft.words[-1] = PAD
    assert "ends in [PAD], which needs a width of (4544, 8192)" in refused(draft, path)


def test_a_number_of_layers_decides_what_a_file_needs(tmp_path: Path) -> None:
    said = refused(tiny_ggcc(n_layer=32, falcon_type=40), tmp_path / "x.bin")
    assert "Falcon type is 40, but the engine takes every model of 32 layers as type 7" in said
    draft = tiny_ggcc(n_layer=60, falcon_type=40)
    for name in list(draft.tensors):
        if "ln_attn" in name:
            del draft.tensors[name]
    draft.header["falcon_type"] = 7
    assert "transformer.h.0.ln_attn.weight is missing" in refused(draft, tmp_path / "x.bin")
