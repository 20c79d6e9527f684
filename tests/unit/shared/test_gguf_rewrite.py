"""Tests of the rewrite to byte form, up to loading the result in ctransformers."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import shared.model.gguf_rewrite
from shared.errors import ModelFileError, UsageError
from shared.model.gguf import TOKENS
from shared.model.gguf_check import check_gguf
from shared.model.gguf_reader import read_gguf
from shared.model.gguf_rewrite import needs_rewrite, rewrite, stderr_progress, token_bytes
from tests.gguf_files import ARRAY, F32, I32, STRING, U32, Tensor, tiny_llama
from tests.legacy_files import tiny_falcon

SCRIPT = Path(__file__).parents[3] / "scripts" / "rewrite_gguf.py"
EVALUATE = """
import math, sys
from ctransformers import LLM, Config
llm = LLM(sys.argv[1], "gguf", lib="avx2", config=Config(context_length=256, threads=1))
llm.eval([int(token) for token in sys.argv[2:]])
assert len(llm.logits) > 0 and all(map(math.isfinite, llm.logits))
print(len(llm.logits), max(range(len(llm.logits)), key=llm.logits.__getitem__))
"""


def evaluate(path: Path, *tokens: int) -> tuple[int, int]:
    """Load a file in ctransformers, in a process of its own: (vocabulary, likeliest token)."""
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, str(path), *map(str, tokens)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    n_vocab, best = done.stdout.split()
    return int(n_vocab), int(best)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama("letters").write(tmp_path / "source.gguf")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.gguf"


@pytest.mark.parametrize(
    ("token", "token_type", "expected"),
    [
        ("Ġhello", 1, b" hello"),
        ("Ã©", 1, "é".encode()),
        ("Ã", 1, b"\xc3"),
        ("ĊĊ", 5, b"\n\n"),
        ("<|im_end|>", 3, b"<|im_end|>"),
        ("Ġplain", 4, "Ġplain".encode()),
        ("two words", 1, b"two words"),
        ("日", 1, "日".encode()),
        ("", 1, b""),
    ],
)
def test_token_bytes(token: str, token_type: int, expected: bytes) -> None:
    assert token_bytes(token.encode(), token_type) == expected


def test_token_bytes_keeps_what_is_not_utf8() -> None:
    assert token_bytes(b"\xff", 1) == b"\xff"


def test_rewrites_the_vocabulary_and_ties_the_output(source: Path, target: Path) -> None:
    rewrite(source, target)
    before, after = read_gguf(source), read_gguf(target)
    check_gguf(after)
    assert after.is_byte_form and not needs_rewrite(after)
    changed = {key for key in after.metadata if after.metadata[key] != before.metadata.get(key)}
    assert changed == {
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "ggml_fastapi.token_form",
    }
    expected = tiny_llama("bytes").metadata["tokenizer.ggml.tokens"][2]
    assert after.metadata["tokenizer.ggml.tokens"] == expected
    assert after.metadata["tokenizer.ggml.scores"] == [0.0] * 292
    data = target.read_bytes()
    original = source.read_bytes()
    blobs = {
        tensor.name: data[after.data_offset + tensor.offset :][: tensor.n_bytes]
        for tensor in after.tensors
    }
    for tensor in before.tensors:
        start = before.data_offset + tensor.offset
        assert blobs[tensor.name] == original[start : start + tensor.n_bytes]
    assert blobs["output.weight"] == blobs["token_embd.weight"]


def test_keeps_an_output_layer_and_makes_missing_token_types(tmp_path: Path, target: Path) -> None:
    draft = tiny_llama("letters", tied=False)
    del draft.metadata["tokenizer.ggml.token_type"]
    draft.metadata["tokenizer.ggml.scores"] = (ARRAY, F32, [1.0] * 292)
    draft.version, draft.alignment = 2, 64
    draft.metadata["general.alignment"] = (U32, 64)
    rewrite(draft.write(tmp_path / "source.gguf"), target)
    file = read_gguf(target)
    check_gguf(file)
    assert (file.version, file.alignment, len(file.tensors)) == (2, 64, len(draft.tensors))
    assert file.metadata["tokenizer.ggml.token_type"] == [1] * 292
    assert file.metadata["tokenizer.ggml.scores"] == [0.0] * 292


def test_the_same_model_comes_out(source: Path, target: Path, tmp_path: Path) -> None:
    """The rewritten file answers as one that was written in byte form to begin with."""
    rewrite(source, target)
    draft = tiny_llama("bytes", tied=True)
    draft.tensors["output.weight"] = draft.tensors["token_embd.weight"]
    direct = draft.write(tmp_path / "direct.gguf")
    assert evaluate(target, 1, 50, 60, 70) == evaluate(direct, 1, 50, 60, 70)


def test_duplicate_tokens_do_no_harm(tmp_path: Path, target: Path) -> None:
    draft = tiny_llama("letters")
    tokens, types = draft.metadata["tokenizer.ggml.tokens"][2], [3, 3, 3] + [1] * 289
    tokens[-1], types[-1] = b"  ", 4
    tokens[-2], types[-2] = "ĠĠ".encode(), 1
    tokens[-3], types[-3] = b"[PAD289]", 5
    draft.metadata["tokenizer.ggml.token_type"] = (ARRAY, I32, types)
    rewrite(draft.write(tmp_path / "source.gguf"), target)
    after = read_gguf(target).metadata["tokenizer.ggml.tokens"]
    assert after[-3:] == [b"[PAD289]", b"  ", b"  "]
    assert evaluate(target, 289, 290, 291)[0] == 292


def test_progress_reaches_the_end(source: Path, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    rewrite(source, target, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (target.stat().st_size, target.stat().st_size)


def test_progress_on_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show = stderr_progress("copying")
    for done in range(0, 11):
        show(done, 10)
    assert capsys.readouterr().err == "copying: 100 %\n"


def test_nothing_is_left_behind(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(shared.model.gguf_rewrite, "_BLOCK", 4096)
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        rewrite(source, target, interrupt)
    assert sorted(os.listdir(target.parent)) == ["source.gguf", "target.gguf"]
    assert target.read_bytes() == b"old"


def test_a_source_that_shrinks_meanwhile(source: Path, target: Path) -> None:
    def cut(done: int, total: int) -> None:
        os.truncate(source, 50_000)

    with pytest.raises(UsageError, match="the source file got shorter"):
        rewrite(source, target, cut)
    assert os.listdir(target.parent) == ["source.gguf"]


def test_a_disk_that_will_be_full(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=100_000)

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(UsageError, match=r"cannot be written: .* bytes are needed, 100,000 are"):
        rewrite(source, target)
    assert os.listdir(target.parent) == ["source.gguf"]


def test_the_copy_gets_ordinary_permissions(source: Path, target: Path) -> None:
    rewrite(source, target)
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)


def test_refusals(source: Path, target: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs no rewriting"):
        rewrite(tiny_llama("spm").write(tmp_path / "spm.gguf"), target)
    with pytest.raises(UsageError, match=r"cannot be written: No such file or directory"):
        rewrite(source, tmp_path / "missing" / "target.gguf")
    with pytest.raises(ModelFileError, match="No such file"):
        rewrite(tmp_path / "missing.gguf", target)

    for key, value, said in (
        ("general.architecture", (STRING, "qwen2"), "'qwen2'"),
        ("tokenizer.ggml.tokens", (ARRAY, I32, [1]), "no vocabulary"),
        ("tokenizer.ggml.token_type", (ARRAY, I32, [1]), "does not fit"),
        ("tokenizer.ggml.token_type", (ARRAY, F32, [1.5] * 292), "other than integers"),
        ("llama.rope.scaling.type", (STRING, "yarn"), "'yarn' context scaling"),
    ):
        draft = tiny_llama("letters")
        draft.metadata[key] = value
        with pytest.raises(ModelFileError, match=said):
            rewrite(draft.write(tmp_path / "bad.gguf"), target)
    draft = tiny_llama("letters")
    draft.tensors["rope_freqs.weight"] = Tensor((4,), bytes(16))
    with pytest.raises(ModelFileError, match="context scaling"):
        rewrite(draft.write(tmp_path / "bad.gguf"), target)
    assert not target.exists()


def run_script(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_script(source: Path, target: Path, tmp_path: Path) -> None:
    done = run_script(source, target, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "rewriting: 100 %\n")
    check_gguf(read_gguf(target))
    again = run_script(target, tmp_path / "again.gguf", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"rewrite_gguf.py: {target}: needs no rewriting\n"
    assert run_script(source, cwd=tmp_path).returncode == 2


def test_demo_model_loads(rewritten_demo: Path) -> None:
    file = read_gguf(rewritten_demo)
    check_gguf(file)
    assert (file.n_vocab, file.size.n_ctx_train, file.quantisation) == (49152, 8192, "Q4_1")
    assert evaluate(rewritten_demo, 1, 9690, 198)[0] == 49152


@pytest.mark.parametrize("two_norms", [False, True])
def test_current_falcon_files_load_after_it(tmp_path: Path, two_norms: bool) -> None:
    """Letters become bytes, and scores are added: the file is what it would have been in 2023."""
    old = tiny_falcon("bytes", two_norms=two_norms).write(tmp_path / "old")
    new = tiny_falcon("letters", two_norms=two_norms).write(tmp_path / "new")
    assert needs_rewrite(read_gguf(new)) and not needs_rewrite(read_gguf(old))
    rewrite(new, tmp_path / "target")
    check_gguf(read_gguf(tmp_path / "target"))
    assert evaluate(tmp_path / "target", 11, 40, 290) == evaluate(old, 11, 40, 290)


def test_an_output_layer_is_added_to_old_files(tmp_path: Path) -> None:
    source = tiny_falcon("bytes", tied=True).write(tmp_path / "source")
    rewrite(source, tmp_path / "target")
    before, after = read_gguf(source), read_gguf(tmp_path / "target")
    assert after.metadata[TOKENS] == before.metadata[TOKENS]
    assert after.tensors[-1].name == "output.weight"
    check_gguf(after)
    spm = tiny_llama("spm", tied=True).write(tmp_path / "spm")
    rewrite(spm, tmp_path / "target")
    check_gguf(read_gguf(tmp_path / "target"))
    assert evaluate(tmp_path / "target", 1, 270)[0] == 272


def test_version_1_files_are_left_alone(tmp_path: Path) -> None:
    draft = tiny_falcon("letters")
    draft.version = 1
    with pytest.raises(ModelFileError, match="version 1"):
        rewrite(draft.write(tmp_path / "x"), tmp_path / "target")
