"""Tests of what the engine can take of Falcon's GGUF files."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelFileError
from shared.model.gguf_check import check_gguf, table_of
from shared.model.gguf_reader import read_gguf
from shared.model.layouts import shapes_of
from tests.gguf_files import BOOL, F32, STRING, U32, Tensor
from tests.legacy_files import tiny_falcon


@pytest.mark.parametrize("two_norms", [False, True])
@pytest.mark.parametrize("n_head_kv", [1, 2, 4])
def test_accepts_each_kind(tmp_path: Path, two_norms: bool, n_head_kv: int) -> None:
    draft = tiny_falcon(two_norms=two_norms, n_head_kv=n_head_kv)
    file = read_gguf(draft.write(tmp_path / "x"))
    check_gguf(file)
    shapes = shapes_of(table_of(file), file.size)
    assert set(shapes) == set(draft.tensors)
    assert shapes["blk.0.attn_qkv.weight"] == (
        32,
        8 * (4 + 2 * n_head_kv),
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("falcon.tensor_data_layout", (STRING, "other"), "order of its attention weights"),
        ("falcon.use_parallel_residual", (BOOL, False), "one after another"),
        ("falcon.attention.layer_norm_epsilon", (F32, 0.0), "layer_norm_epsilon is 0.0"),
        ("falcon.attention.head_count", (U32, 16), "the shape"),
        ("falcon.rope.scaling.factor", (F32, 2.0), "context scaling"),
        ("falcon.block_count", (U32, 3), "blk.2.attn_norm.weight is missing"),
        ("tokenizer.ggml.eos_token_id", (U32, 300), "is 300, but there are 300 tokens"),
    ],
)
def test_what_the_engine_cannot_take(
    tmp_path: Path, key: str, value: tuple[Any, ...], said: str
) -> None:
    draft = tiny_falcon()
    draft.metadata[key] = value
    with pytest.raises(ModelFileError) as caught:
        check_gguf(read_gguf(draft.write(tmp_path / "x")))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["blk.1.attn_norm_2.weight", "blk.0.attn_qkv.bias"])
def test_tensors_that_are_too_much(tmp_path: Path, name: str) -> None:
    """A second norm in one layer alone, and biases."""
    draft = tiny_falcon()
    draft.tensors[name] = Tensor((32,), bytes(128))
    with pytest.raises(ModelFileError, match=r"is missing|the model has biases"):
        check_gguf(read_gguf(draft.write(tmp_path / "x")))
