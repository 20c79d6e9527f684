"""Descriptions of GGUF files for llama.cpp, and the engine that `auto` chooses for a file."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.description import Pooling
from shared.model.inspect import inspect
from tests.gguf_files import ARRAY, CHAT_TEMPLATE, F32, I32, STRING, U16, U32, GGUFDraft, tiny_llama
from tests.gguf_kinds import GENERATING, tiny, write_split

Change = Callable[[GGUFDraft], None]


@pytest.mark.parametrize("architecture", [*GENERATING, "bert"])
def test_an_architecture_is_described(architecture: str, tmp_path: Path) -> None:
    file = inspect(tiny(architecture).write(tmp_path / "m.gguf"), engine="auto")
    assert (file.engine, file.family_name, file.family) == ("llamacpp", architecture, None)
    assert file.pooling is (Pooling.MEAN if architecture == "bert" else Pooling.NONE)
    has_cache = architecture not in ("bert", "mamba")
    # Two layers, keys and values, two heads of 8 numbers, two bytes each. Those of Gemma see 16
    # tokens; for these the library makes 256 cells.
    n_cells = 256 if architecture == "gemma3" else 512
    cache = 2 * 2 * 2 * 8 * 2 * n_cells if has_cache else 0
    assert file.memory.caches(512, 4) == cache + 4 * file.memory.per_slot
    # Logits, and of mamba the states of two layers: 64 x 16 numbers, and 4 tokens' input to them.
    state = 2 * (64 * 16 + 4 * (64 + 2 * 16)) if architecture == "mamba" else 0
    assert file.memory.per_slot == 4 * (file.n_vocab + state)
    with pytest.raises(ModelFileError, match=f"its architecture is '{architecture}'"):
        inspect(file.path)


def test_templates_for_some_use(tmp_path: Path) -> None:
    draft = tiny("qwen3")
    for use in ("tool_use", "rerank"):
        draft.metadata[f"tokenizer.chat_template.{use}"] = (STRING, f"{{{{ '{use}' }}}}")
    file = inspect(draft.write(tmp_path / "m.gguf"), engine="llamacpp")
    assert file.named_templates == {"tool_use": "{{ 'tool_use' }}", "rerank": "{{ 'rerank' }}"}
    assert file.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("form", "version", "engine"),
    [
        ("letters", 3, "llamacpp"),
        ("letters", 2, "llamacpp"),
        ("spm", 2, "llamacpp"),
        ("spm", 1, "ctransformers"),
        # Rewritten for ctransformers, or of 2023.
        ("bytes", 3, "ctransformers"),
    ],
)
def test_auto_takes_llamacpp_for_the_gguf_files_that_it_reads(
    form: str, version: int, engine: str, tmp_path: Path
) -> None:
    draft = tiny_llama(form)
    draft.version = version
    path = draft.write(tmp_path / "m.gguf")
    file = inspect(path, "llama", "auto")
    assert (file.engine, file.family_name, file.needs_rewrite) == (engine, "llama", False)
    assert inspect(path).engine == "ctransformers"


def _set(key: str, *value: object) -> Change:
    return lambda draft: draft.metadata.update({key: value})


def _version_1(draft: GGUFDraft) -> None:
    draft.version = 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_version_1, "llama.cpp reads versions 2 and 3"),
        (_set("general.architecture", STRING, ""), "names no architecture"),
        (
            _set("split.count", U32, 3),
            "a part of a model of 3 files; the first should be called m-",
        ),
        (_set("llama.feed_forward_length", ARRAY, I32, [-1, 64]), "feed_forward_length is -1"),
        (_set("llama.embedding_length", STRING, "x"), "embedding_length is 'x'"),
        (_set("llama.context_length", U32, 2**32 - 1), "a context of 4,294,967,295 tokens"),
        (_set("tokenizer.ggml.token_type", ARRAY, I32, [1] * 5), "should be an array of 292"),
        (_set("tokenizer.ggml.scores", ARRAY, F32, [0.0]), "should be an array of 292"),
        (_set("tokenizer.ggml.tokens", ARRAY, STRING, []), "no vocabulary"),
        (_set("tokenizer.ggml.eos_token_id", U32, 292), "eos_token_id is 292, but there are 292"),
    ],
)
def test_what_the_library_would_believe_is_refused(
    change: Change, problem: str, tmp_path: Path
) -> None:
    draft = tiny_llama()
    change(draft)
    with pytest.raises(ModelFileError, match=re.escape(problem)):
        inspect(draft.write(tmp_path / "m.gguf"), engine="llamacpp")


def test_a_model_in_several_files(tmp_path: Path) -> None:
    whole = inspect(tiny("qwen3").write(tmp_path / "m.gguf"), engine="auto")
    paths = write_split(tiny("qwen3"), tmp_path, 3)
    file = inspect(paths[0], engine="auto")
    assert (file.n_parts, file.n_bytes) == (3, sum(path.stat().st_size for path in paths))
    assert file.memory == whole.memory
    assert {tensor.name for tensor in file.tensors} == {tensor.name for tensor in whole.tensors}
    write_split(tiny_llama(), tmp_path, 2, "llama")
    with pytest.raises(ModelFileError, match="split into 2 files, which ctransformers does not"):
        inspect(tmp_path / "llama-00001-of-00002.gguf")


def _other_order(paths: list[Path]) -> None:
    paths[1].rename(paths[0].with_name("x"))
    paths[2].rename(paths[1])
    paths[0].with_name("x").rename(paths[2])


@pytest.mark.parametrize(
    ("damage", "part", "problem"),
    [
        (lambda paths: paths[2].unlink(), 0, "m-00003-of-00003.gguf: this part of the model is mi"),
        (lambda paths: None, 1, "it is not the first part of its model; name m-00001-of-00003.gg"),
        (lambda paths: os.truncate(paths[1], 2000), 0, "m-00002-of-00003.gguf: the file is cut"),
        (_other_order, 0, "by its name it is part 2 of 3, by its metadata split.no is 2 and"),
        (lambda paths: paths[2].write_bytes(paths[1].read_bytes()), 0, "it is part 3 of 3, by its"),
        (lambda paths: tiny_llama().write(paths[1]), 0, "split.no is -1 and split.count 1"),
        (lambda paths: _part(2, 3).write(paths[2]), 0, "tensors.count is 24, but its 3 parts have"),
    ],
)
def test_a_part_that_is_not_right(
    damage: Callable[[list[Path]], object], part: int, problem: str, tmp_path: Path
) -> None:
    paths = write_split(tiny("qwen3"), tmp_path, 3)
    damage(paths)
    with pytest.raises(ModelFileError, match=re.escape(problem)):
        inspect(paths[part], engine="auto")


def _part(number: int, n_parts: int) -> GGUFDraft:
    return GGUFDraft({"split.no": (U16, number), "split.count": (U16, n_parts)})


def test_other_files_are_not_for_it(tmp_path: Path) -> None:
    rewritten = tiny_llama("bytes").write(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match="in the form that ctransformers reads"):
        inspect(rewritten, engine="llamacpp")
    with pytest.raises(ModelFileError, match="reads GGUF files only"):
        inspect(Path(__file__).parents[2] / "models/gpt2.bin", engine="llamacpp")
