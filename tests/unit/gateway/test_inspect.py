"""Tests of ``ggml-fastapi inspect``."""

import re
from pathlib import Path

import pytest

from gateway import machine
from gateway.inspect import main
from tests.gguf_files import tiny_llama
from tests.legacy_files import tiny_falcon, tiny_mpt, tiny_neox


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return what was printed, per name in the first column."""
    pairs = (re.split(": |  ", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)


def test_a_file_that_can_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_llama("letters").write(tmp_path / "x.gguf")
    assert main([str(path)]) == 0
    rows = table(capsys)
    assert rows["family"] == "llama"
    assert rows["format"] == "gguf version 3"
    assert rows["begin of text"] == "1 <|im_start|>, not added to prompts"
    assert rows["end of text"] == "2 <|im_end|>"
    assert (rows["merges"], rows["pre-tokenizer"], rows["chat template"]) == ("33", "smollm", "yes")
    assert rows["context"] == "512 tokens"
    assert rows["servable"].startswith("yes, after it has been rewritten once")
    assert "with 4 workers on 4 cores (memory for " in rows["servable"]


def test_what_legacy_files_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = tiny_neox()
    draft.words[0] = b"<s>"
    assert main([str(draft.write(tmp_path / "x.bin"))]) == 0
    rows = table(capsys)
    assert (rows["format"], rows["end of text"], rows["n rot"]) == ("ggml", "none", "4")
    assert (rows["merges"], rows["pre-tokenizer"]) == ("none in the file", "not named")


def test_tensors_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_falcon().write(tmp_path / "x")
    assert main([str(path), "--tensors"]) == 0
    assert table(capsys)["blk.1.attn_qkv.weight"] == "F32    32 x 48"


def test_buffers_that_are_too_small_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tiny_mpt(n_embd=128, n_head=64, n_layer=1, n_ctx=40_000, empty=True)
    assert main([str(draft.write_sparse(tmp_path / "x"))]) == 0
    rows = table(capsys)
    assert rows["context"] == "40,000 tokens; the engine's buffers hold 8,123"
    assert rows["scratch"].endswith(" at 4,096 tokens")


def test_too_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10 << 20)
    assert main([str(tiny_falcon().write(tmp_path / "x"))]) == 1
    servable = table(capsys)["servable"]
    assert re.match(r"no, it needs 1\d MiB .* with a context of 512 .* 10 MiB are free", servable)


def test_a_file_that_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(tiny_falcon().to_bytes()[:-1])
    assert main([str(tmp_path / "x")]) == 1
    captured = capsys.readouterr()
    assert "cut short" in captured.err and captured.out == "servable: no\n"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "usage"),
        (["--nonsense"], 2, "usage"),
        (["a", "b"], 2, "usage"),
        (["FILE", "--model-type", "nonsense"], 2, "nonsense"),
        (["FILE", "--model-type", "mpt"], 1, "it is a falcon model"),
        (["missing"], 1, "missing"),
        (["--help"], 0, ""),
    ],
)
def test_command_lines(
    arguments: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_falcon().write(tmp_path / "x")
    assert main([str(path) if word == "FILE" else word for word in arguments]) == status
    assert says in capsys.readouterr().err


def test_names_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = tiny_falcon()
    draft.metadata["general.name"] = (8, "a\x1b[2Jb\n")
    assert main([str(draft.write(tmp_path / "x"))]) == 0
    assert table(capsys)["name"] == "a\ufffd[2Jb\ufffd"


def test_what_became_of_convert(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    assert main(["convert", "folder", "model.bin"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "convert_hf_to_gguf.py" in line
