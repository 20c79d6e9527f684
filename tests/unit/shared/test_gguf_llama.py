"""Tests of what the engine can take of LLaMA's GGUF files."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelFileError
from shared.model.gguf_check import check_gguf
from shared.model.gguf_reader import read_gguf
from tests.gguf_files import ARRAY, BOOL, F32, I32, STRING, U32, GGUFDraft, Tensor, tiny_llama


def problem(path: Path, draft: GGUFDraft) -> str:
    with pytest.raises(ModelFileError) as caught:
        check_gguf(read_gguf(draft.write(path)))
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def draft() -> GGUFDraft:
    return tiny_llama("bytes")


def _set(key: str, *value: Any) -> Any:
    def change(draft: GGUFDraft) -> None:
        draft.metadata[key] = value

    return change


def _drop(key: str) -> Any:
    def change(draft: GGUFDraft) -> None:
        (draft.metadata if key in draft.metadata else draft.tensors).pop(key)

    return change


def _tensor(name: str, *shape: int, kind: int = 0, n_bytes: int = 0) -> Any:
    def change(draft: GGUFDraft) -> None:
        size = n_bytes or 4
        for dimension in shape if not n_bytes else ():
            size *= dimension
        draft.tensors[name] = Tensor(shape, bytes(size), kind)

    return change


TOKENS = [f"t{index}" for index in range(12)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("general.architecture", STRING, "falcon"), "falcon.context_length is missing"),
        (_drop("general.architecture"), "architecture is ''"),
        (_drop("llama.context_length"), "llama.context_length is missing"),
        (_drop("llama.attention.layer_norm_rms_epsilon"), "epsilon is missing"),
        (_set("llama.context_length", 5, 512), "type INT32, not UINT32"),
        (_set("llama.block_count", U32, 0), "block_count is 0"),
        (_set("llama.block_count", U32, 1), "does not use: blk.1.attn_norm.weight (and 8 others)"),
        (_set("llama.block_count", U32, 3), "tensor blk.2.attn_norm.weight is missing"),
        (_set("llama.block_count", U32, 101), "101 layers"),
        (_set("llama.block_count", U32, (1 << 32) - 1), "block_count is 4294967295"),
        (_set("llama.attention.head_count", U32, 0), "head_count is 0"),
        (_set("llama.attention.head_count", U32, 3), "do not divide a width"),
        (_set("llama.attention.head_count", U32, 32), "do not divide a width"),
        (_set("llama.attention.head_count", ARRAY, U32, [4, 4]), "layers that differ"),
        (_set("llama.attention.head_count_kv", U32, 3), "do not divide 4 heads"),
        (_set("llama.attention.head_count_kv", U32, 0), "head_count_kv is 0"),
        (_set("llama.attention.head_count_kv", ARRAY, I32, [2, 2]), "layers that differ"),
        (_set("llama.attention.layer_norm_rms_epsilon", F32, float("nan")), "is nan"),
        (_set("llama.rope.freq_base", F32, 0.0), "freq_base is 0.0"),
        (_set("llama.rope.dimension_count", U32, 4), "a part of each head"),
        (_set("llama.attention.key_length", U32, 16), "own width"),
        (_set("llama.rope.scaling.type", STRING, "yarn"), "'yarn' context scaling"),
        (_set("llama.rope.scaling.type", STRING, "llama3"), "'llama3' context scaling"),
        (_set("llama.rope.scaling.factor", F32, 4.0), "context scaling"),
        (_set("llama.expert_count", U32, 8), "mixture of experts"),
        (_set("llama.attention.sliding_window", U32, 511), "attends to the last 511 tokens"),
        (_set("split.count", 2, 3), "a part of a model"),
        (_set("tokenizer.ggml.model", STRING, "bert"), "the kind 'bert'"),
        (_drop("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
        (_drop("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens is missing"),
        (_drop("tokenizer.ggml.scores"), "tokenizer.ggml.scores is missing"),
        (_drop("tokenizer.ggml.token_type"), "tokenizer.ggml.token_type is missing"),
        (_drop("tokenizer.ggml.merges"), "tokenizer.ggml.merges is missing"),
        (_set("tokenizer.ggml.tokens", ARRAY, I32, [1] * 292), "ARRAY of INT32"),
        (_set("tokenizer.ggml.scores", ARRAY, F32, [0.0] * 291), "292 tokens, 291 scores"),
        (_set("tokenizer.ggml.scores", ARRAY, 12, [0.0] * 292), "ARRAY of FLOAT64"),
        (_set("tokenizer.ggml.token_type", ARRAY, I32, [7] * 292), "unknown type 7"),
        (_set("tokenizer.ggml.token_type", ARRAY, I32, [6] * 292), "the byte token"),
        (_set("tokenizer.ggml.tokens", ARRAY, STRING, TOKENS), "12 tokens, 292 scores"),
        (_set("tokenizer.ggml.tokens", ARRAY, STRING, ["a"] * 292), "no token '\\n'"),
        (_set("tokenizer.ggml.eos_token_id", U32, 292), "eos_token_id is 292"),
        (_set("tokenizer.ggml.seperator_token_id", U32, (1 << 31) - 1), "is 2147483647"),
        (_set("tokenizer.ggml.eot_token_id", U32, 1000), "eot_token_id is 1000"),
        (_set("tokenizer.ggml.bos_token_id", I32, -1), "type INT32"),
        (_set("tokenizer.ggml.add_bos_token", U32, 1), "type UINT32, not BOOL"),
        (_set("tokenizer.ggml.add_space_prefix", U32, 0), "type UINT32, not BOOL"),
        (_set("tokenizer.ggml.pre", U32, 1), "type UINT32, not STRING"),
        (_set("tokenizer.chat_template", ARRAY, STRING, ["x"]), "is a list"),
        (_drop("output.weight"), "tensor output.weight is missing"),
        (_drop("blk.1.ffn_up.weight"), "tensor blk.1.ffn_up.weight is missing"),
        (_tensor("rope_freqs.weight", 4), "rope_freqs.weight; the model needs context scaling"),
        (_tensor("blk.0.attn_q.bias", 32), "the model has biases"),
        (_tensor("blk.0.ffn_gate_inp.weight", 32, 8), "mixture of experts"),
        (_tensor("output_norm.weight", 32, 2), "the shape (32, 2) where (32,) is due"),
        (_tensor("token_embd.weight", 32, 291), "the shape (32, 291)"),
        (_tensor("output_norm.weight", 32, kind=1, n_bytes=64), "F16; the engine knows F32"),
        (_tensor("output.weight", 32, 292, kind=30, n_bytes=32 * 584), "of type BF16"),
        (_tensor("output.weight", 32, 292, kind=20, n_bytes=18 * 292), "IQ4_NL; the engine knows"),
    ],
)
def test_what_the_engine_cannot_take(path: Path, draft: GGUFDraft, change: Any, said: str) -> None:
    change(draft)
    assert said in problem(path, draft)


def test_letters_have_to_be_rewritten(path: Path) -> None:
    assert "not in the byte form that the engine reads" in problem(path, tiny_llama("letters"))


def test_bytes_are_known_without_being_named(path: Path, draft: GGUFDraft) -> None:
    """As in files of 2023."""
    del draft.metadata["ggml_fastapi.token_form"]
    check_gguf(read_gguf(draft.write(path)))


def test_sentencepiece_needs_its_newline(path: Path) -> None:
    draft = tiny_llama("spm")
    tokens = draft.metadata["tokenizer.ggml.tokens"][2]
    tokens[tokens.index("<0x0A>")] = "<0x0B>"
    assert "no token '<0x0A>'" in problem(path, draft)


def test_sentencepiece_without_a_space_in_front(path: Path, draft: GGUFDraft) -> None:
    key = "tokenizer.ggml.add_space_prefix"
    spm = tiny_llama("spm")
    spm.metadata[key] = (BOOL, False)
    assert f"puts no space before a text ({key} = False)" in problem(path, spm)
    spm.metadata[key] = (BOOL, True)
    check_gguf(read_gguf(spm.write(path)))
    # A byte-level vocabulary has nothing to do with it.
    draft.metadata[key] = (BOOL, False)
    check_gguf(read_gguf(draft.write(path)))


def test_harmless_extras_are_accepted(path: Path, draft: GGUFDraft) -> None:
    draft.metadata |= {
        "llama.rope.scaling.type": (STRING, "none"),
        "llama.rope.scaling.factor": (F32, 1.0),
        "llama.attention.key_length": (U32, 8),
        "llama.attention.sliding_window": (U32, 512),
        "llama.vocab_size": (U32, 292),
        "general.tags": (ARRAY, STRING, ["text"]),
    }
    check_gguf(read_gguf(draft.write(path)))
