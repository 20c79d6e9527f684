"""Whatever a value in a GGUF file is changed to: it is refused, or llama.cpp survives the file."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelFileError
from shared.model.inspect import inspect
from tests.gguf_files import ARRAY, BOOL, F32, I32, STRING, U32, GGUFDraft, Tensor, tiny_llama
from tests.gguf_kinds import GENERATING, tiny
from tests.serving import ROOT

# Opens the files that it is told, evaluates with two sequences, and says so after each.
CHILD = """
import os, sys
os.environ["GGML_NO_BACKTRACE"] = "1"
from shared.config import WorkerConfig
from shared.errors import EngineError
from worker.engines.base import SlotTokens
from worker.engines.llamacpp import LlamaCppEngine
for line in sys.stdin:
    path = line.strip()
    try:
        engine = LlamaCppEngine(WorkerConfig("llamacpp", path, slots=2))
        ids = engine.tokenize(("hello \\0 \\u4e16",), begins=True)[: engine.info.n_ctx // 2]
        for slot in (0, 1):
            engine.reuse_prefix(slot, ids)
            engine.forward([SlotTokens(slot, ids, wants_logits=True)], 1)
        engine.forward([SlotTokens(slot, [1], wants_logits=True) for slot in (0, 1)], 1)
    except EngineError as error:
        assert "\\n" not in str(error)
    print(path, flush=True)
"""
ABSURD: tuple[tuple[Any, ...], ...] = (
    *((U32, number) for number in (0, 1, 2, 3, 4, 7, 31, 64, 4096, 1 << 24, (1 << 32) - 1)),
    (I32, -1), (F32, 0.0), (F32, float("nan")), (BOOL, True), (STRING, ""), (STRING, "yarn"),
    *((ARRAY, U32, [number] * n) for number in (0, 1, 8) for n in (0, 1, 2, 600)),
    (ARRAY, I32, [-1, 8]), (ARRAY, STRING, ["x"] * 292), (ARRAY, F32, [1.0] * 292),
)  # fmt: skip
FURTHER_KEYS = (
    "attention.key_length", "attention.value_length", "attention.key_length_swa", "vocab_size",
    "attention.scale", "attention.sliding_window", "attention.sliding_window_pattern",
    "expert_count", "expert_group_count", "expert_shared_count", "expert_used_count",
    "leading_dense_block_count", "logit_scale", "nextn_predict_layers", "pooling_type",
    "rope.dimension_count", "rope.dimension_count_swa", "rope.dimension_sections",
    "rope.freq_base", "rope.scaling.factor", "rope.scaling.type", "attention.causal",
)  # fmt: skip
KINDS = (*GENERATING, "llama", "bert")


def draft_of(kind: str) -> GGUFDraft:
    return tiny_llama() if kind == "llama" else tiny(kind)


def mutants(kind: str, n: int) -> Iterator[tuple[str, GGUFDraft]]:
    source = random.Random(kind)
    keys = [*draft_of(kind).metadata, *(f"{kind}.{key}" for key in FURTHER_KEYS)]
    for _ in range(n):
        draft, key, value = draft_of(kind), source.choice(keys), source.choice(ABSURD)
        draft.metadata[key] = value
        yield f"{key} = {value!r:.60}", draft


def test_whatever_a_value_is_changed_to_the_library_survives(tmp_path: Path) -> None:
    sound: dict[Path, str] = {}
    for kind in KINDS:
        for number, (change, draft) in enumerate(mutants(kind, 20)):
            path = draft.write(tmp_path / f"{kind}-{number}.gguf")
            try:
                inspect(path, engine="llamacpp")
            except ModelFileError as error:
                assert "\n" not in str(error)
            else:
                sound[path] = change
    assert len(sound) > 50  # else next to nothing has been tried
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(map(str, sound)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    done = child.stdout.splitlines()
    assert child.returncode == 0, (list(sound.values())[len(done)], child.stderr[-500:])
    assert len(done) == len(sound)


def _set(kind: str, *values: tuple[str, Any]) -> GGUFDraft:
    draft = draft_of(kind)
    for key, value in values:
        name = key if key.startswith("tokenizer.") else f"{kind}.{key}"
        draft.metadata[name] = value if isinstance(value, tuple) else (U32, value)
    return draft


def _of_type(kind: str, tensor: str, ggml_type: int, n_bytes: int) -> GGUFDraft:
    draft = draft_of(kind)
    draft.tensors[tensor] = Tensor(draft.tensors[tensor].shape, bytes(n_bytes), ggml_type)
    return draft


def _without(kind: str, key: str) -> GGUFDraft:
    draft = draft_of(kind)
    del draft.metadata[key]
    return draft


def _lacking(kind: str, tensor: str) -> GGUFDraft:
    draft = draft_of(kind)
    del draft.tensors[tensor]
    return draft


EPSILON = "attention.layer_norm_rms_epsilon"
TWICE = (ARRAY, STRING, ["a"] * 2 + [f"t{n}" for n in range(290)])


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (_set("llama", ("block_count", 0)), "0 layers; 1 to 512"),
        (_set("llama", ("block_count", 100_000)), "100,000 layers"),
        (_set("llama", ("block_count", 1)), "names 1 layers, and has tensors of 2"),
        (_set("llama", ("context_length", 0)), "context_length should be a positive number"),
        (_set("llama", ("attention.head_count", 1 << 31)), "head_count is 2,147,483,648"),
        (_set("llama", ("rope.dimension_count", 3)), "should be even, and at most 8"),
        (_set("llama", ("rope.dimension_count", 1000)), "should be even, and at most 8"),
        (_set("qwen3", ("rope.dimension_count", 4)), "dimension_count is 4; it should be 8"),
        (_set("gemma3", ("rope.dimension_count_swa", 7)), "_swa is 7; it should be even"),
        (_set("phi3", ("attention.key_length", 31)), "a key has 31 numbers and a value 8; not in "),
        (_set("bert", ("attention.key_length", 64)), "a key has 64 numbers and a value 8; not in "),
        (_set("qwen3", ("rope.scaling.type", (STRING, "x"))), "scales rotations by 'x'"),
        (_set("qwen3", ("nextn_predict_layers", 5)), "5 of its 2 layers predict further tokens"),
        (_set("qwen3", ("expert_count", 5)), "5 experts, of which 0 are used"),
        (_set("qwen3", ("expert_used_count", 1)), "0 experts, of which 1 are used"),
        (_set("qwen3moe", ("expert_count", 0), ("expert_used_count", 0)), "has tensors of 4"),
        (_set("qwen3moe", ("expert_used_count", 5)), "4 experts, of which 5 are used"),
        (_set("qwen3moe", ("expert_group_count", 3)), "3 groups of 4 experts"),
        (_set("qwen3moe", ("expert_group_count", 4)), "4 groups of 4 experts"),
        (_set("qwen3moe", ("expert_group_count", 2)), "2 groups .* of which 0 are used"),
        (_set("gemma3", ("attention.sliding_window_pattern", (ARRAY, U32, [0, 0]))), "no layer th"),
        (_set("llama", ("pooling_type", 9)), "pools embeddings in an unknown way"),
        (_set("llama", ("pooling_type", 4)), "ranks documents"),
        (_set("llama", ("tokenizer.ggml.tokens", TWICE)), "1 tokens of its vocabulary occur twice"),
        (_set("llama", ("tokenizer.ggml.merges", 5)), "merges should be an array of texts"),
        (_set("llama", ("tokenizer.ggml.model", (STRING, "llama"))), "no token for .* such as 0x"),
        (_set("llama", (EPSILON, (F32, -1.0))), "rms_epsilon is -1.0"),
        (_set("llama", (EPSILON, (F32, float("nan")))), "rms_epsilon is nan"),
        (
            _without("bert", "tokenizer.ggml.seperator_token_id"),
            "seperator_token_id is 102, but th",
        ),
        (_of_type("llama", "blk.0.attn_norm.weight", 1, 64), "is of type F16, which llama.cpp doe"),
        (_of_type("mamba", "blk.1.ssm_conv1d.weight", 1, 512), "is of type F16, which llama.cpp d"),
        (_lacking("phi3", "blk.1.attn_qkv.weight"), "blk.1 has no queries"),
        (_of_type("llama", "blk.0.attn_q.weight", 26, 4096), "is of type I32, which llama.cpp doe"),
    ],
)
def test_what_the_library_would_abort_on_never_reaches_it(
    draft: GGUFDraft, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        inspect(draft.write(tmp_path / "bad.gguf"), engine="llamacpp")
    assert not re.search(r"\n|Error", str(caught.value))
