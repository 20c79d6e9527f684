"""Tests of the engine's memory: the numbers, and the library's own opinion of the limits."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.description import Family, FileFormat
from shared.model.inspect import inspect
from shared.model.memory import max_layers, work_bytes
from tests.gguf_files import tiny_llama
from tests.legacy_files import (
    LegacyDraft,
    tiny_falcon,
    tiny_ggcc,
    tiny_gpt2,
    tiny_mpt,
    tiny_neox,
    tiny_starcoder,
)

ROOT = Path(__file__).parents[3]
# Loads a model and evaluates so many tokens that end at a position.
CHILD = """
import ctypes, sys
from ctransformers import LLM, Config
path, kind, n_ctx, n_tokens, end = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
llm = LLM(path, kind, lib="avx2", config=Config(context_length=n_ctx, threads=1))
ids = (ctypes.c_int * n_tokens)(*[1] * n_tokens)
assert llm.ctransformers_llm_batch_eval(ids, n_tokens, end - n_tokens, n_tokens, 1)
print("evaluated", max(int(line.split()[1]) for line in open("/proc/self/status")
                       if line.startswith("VmHWM")))
"""


def evaluate(path: Path, kind: str, n_ctx: int, n_tokens: int, end: int) -> str:
    """Return what the library prints about it in a process of its own."""
    numbers = map(str, (n_ctx, n_tokens, end))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), kind, *numbers],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.stdout if done.returncode == 0 else done.stderr


WIDE: dict[str, Callable[[], LegacyDraft]] = {
    "starcoder": lambda: tiny_starcoder(n_embd=128, n_head=64, n_layer=1, n_ctx=40_000, empty=True),
    "mpt": lambda: tiny_mpt(n_embd=128, n_head=64, n_layer=1, n_ctx=40_000, empty=True),
    "neox": lambda: tiny_neox(n_embd=128, n_head=64, n_layer=1, n_ctx=40_000, n_rot=2, empty=True),
}


@pytest.mark.parametrize("name", WIDE)
def test_the_longest_context_is_the_longest(tmp_path: Path, name: str) -> None:
    path = WIDE[name]().write_sparse(tmp_path / "x")
    model = inspect(path)
    most = model.n_ctx_most
    assert 5_000 < most < model.n_ctx_train == 40_000
    said = evaluate(path, model.library_type, 40_000, 32, most)
    assert said.startswith("evaluated")
    # What the evaluation wrote to is about what was foretold.
    assert int(said.split()[1]) * 1024 < model.memory.scratch + model.memory.weights + (100 << 20)
    said = evaluate(path, model.library_type, 40_000, 32, most + 1)
    assert not said.startswith("evaluated")


def test_the_longest_context_of_falcon(tmp_path: Path) -> None:
    """Its buffers grow with the context, but not as fast as what is in them."""
    draft = tiny_ggcc(n_embd=4096, n_head=2048, n_head_kv=2, n_layer=1, wtype=2, empty=True)
    path = draft.write_sparse(tmp_path / "x")
    most = inspect(path).n_ctx_most
    assert 500 < most < 1000
    assert evaluate(path, "falcon", most, 32, most).startswith("evaluated")
    # Its size is in whole MiB, so a few tokens more may still fit.
    assert not evaluate(path, "falcon", most + 40, 32, most + 40).startswith("evaluated")


@pytest.mark.parametrize(
    "draft",
    [
        lambda: tiny_ggcc(n_embd=32, n_vocab=1_200_000, empty=True),
        lambda: tiny_mpt(n_embd=22_528, n_head=22_528, n_layer=1, wtype=2, empty=True),
    ],
    ids=["falcon", "mpt"],
)
def test_models_that_fit_at_no_length(tmp_path: Path, draft: Callable[[], LegacyDraft]) -> None:
    with pytest.raises(ModelFileError, match=r"too wide|too large"):
        inspect(draft().write_sparse(tmp_path / "x"))


@pytest.mark.parametrize(
    ("family", "file_format", "make", "kind"),
    [
        (Family.STARCODER, FileFormat.GGML, tiny_starcoder, "starcoder"),
        (Family.MPT, FileFormat.GGML, lambda **k: tiny_mpt(clip=1, **k), "mpt"),
        (Family.GPT_NEOX, FileFormat.GGML, tiny_neox, "gpt-neox"),
        (Family.GPT_NEOX, FileFormat.GGML, lambda **k: tiny_neox(par_res=0, **k), "gpt-neox"),
        (Family.FALCON, FileFormat.GGCC, lambda **k: tiny_ggcc(falcon_type=40, **k), "falcon"),
    ],
)
def test_the_most_layers_are_the_most(
    tmp_path: Path,
    family: Family,
    file_format: FileFormat,
    make: Callable[..., LegacyDraft],
    kind: str,
) -> None:
    most = max_layers(family, file_format)
    path = make(n_layer=most, empty=True).write_sparse(tmp_path / "x")
    inspect(path)
    # The first evaluation has the most nodes where it does not begin at the first position.
    assert evaluate(path, kind, 64, 8, 40).startswith("evaluated")
    path = make(n_layer=most + 1, empty=True).write_sparse(tmp_path / "x")
    assert "GGML_MAX_NODES" in evaluate(path, kind, 64, 8, 40)


def test_numbers_of_each_format(tmp_path: Path) -> None:
    """Per token: bytes of keys and values of two layers of 32 numbers, 8 of which are kept."""
    for draft, per_token in (
        (tiny_starcoder(), 2 * 2 * 32 * 4),
        (tiny_gpt2(), 2 * 2 * 32 * 4),
        (tiny_neox(), 2 * 2 * 32 * 2),
        (tiny_mpt(), 2 * 2 * 32 * 2),
        (tiny_ggcc(), 3 * 2 * 8 * 4),
        (tiny_falcon(), 2 * 2 * 8 * 2),
        (tiny_llama("bytes"), 2 * 2 * 16 * 2),
    ):
        memory = inspect(draft.write(tmp_path / "x")).memory
        assert memory.kv_per_token == per_token
        assert 0 < memory.scratch_per_token < memory.scratch < 8 << 20


def test_weights_count_what_the_engine_copies(tmp_path: Path) -> None:
    tied = inspect(tiny_starcoder(tied=True).write(tmp_path / "x")).memory.weights
    untied = inspect(tiny_starcoder(tied=False).write(tmp_path / "x")).memory.weights
    assert tied == untied
    letters = inspect(tiny_llama("letters").write(tmp_path / "x")).memory.weights
    assert letters == inspect(tiny_llama("bytes").write(tmp_path / "x")).memory.weights


def test_activations_are_converted() -> None:
    assert [work_bytes(kind) for kind in (0, 1, 2, 3, 8, 12)] == [
        0, 2, 34 / 32, 40 / 32, 34 / 32, 292 / 256,
    ]  # fmt: skip
