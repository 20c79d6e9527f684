"""Tests of ``ggml-fastapi inspect``."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import machine
from gateway.inspect import main
from tests.gguf_files import STRING, tiny_llama
from tests.gguf_kinds import tiny, write_split
from tests.legacy_files import tiny_falcon, tiny_mpt, tiny_neox

Rows = Callable[..., dict[str, str]]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What is printed of a file, per name in the first column, on a small machine."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)

    def rows(path: Path, *options: str, status: int = 0, memory: int = 1 << 30) -> dict[str, str]:
        monkeypatch.setattr(machine, "available_memory", lambda: memory)
        assert main([str(path), *options]) == status
        lines = capsys.readouterr().out.splitlines()
        pairs = [re.split(": |  ", line, maxsplit=1) for line in lines]
        return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}

    return rows


def test_a_file_that_can_be_served(tmp_path: Path, rows: Rows) -> None:
    path = tiny_llama("letters").write(tmp_path / "x.gguf")
    found = rows(path)
    expected = {
        "family": "llama",
        "format": "gguf version 3",
        "begin of text": "1 <|im_start|>, not added to prompts",
        "end of text": "2 <|im_end|>",
        "merges": "33",
        "pre-tokenizer": "smollm",
        "chat template": "yes",
        "context": "512 tokens",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["servable"].startswith("yes, by llama.cpp")
    by_other = rows(path, "--engine", "ctransformers")["servable"]
    assert by_other.startswith("yes, after it has been rewritten once (by itself), by ctrans")
    assert "with 4 workers on 4 cores (memory for " in found["servable"]


def test_what_only_some_models_have(tmp_path: Path, rows: Rows) -> None:
    draft = tiny("gemma3")
    draft.metadata["tokenizer.chat_template.tool_use"] = (STRING, "{{ tools }}")
    gemma = rows(write_split(draft, tmp_path, 2)[0])
    assert gemma["file"].endswith(" in 2 files)")
    assert gemma["chat template"] == "yes, and for tool_use"
    assert gemma["attention sliding window"] == "16"
    assert gemma["windows"].startswith("2 KiB for 16 tokens of each slot")
    assert gemma["servable"].endswith("at 512 tokens each (as trained)")
    mamba = rows(tiny("mamba").write(tmp_path / "mamba.gguf"))
    assert (mamba["attention"], mamba["KV cache"]) == ("none: recurrent", "0 B for 1,024 tokens")
    assert mamba["each slot"].endswith("its state 11 KiB") and "heads" not in mamba
    bert = rows(tiny("bert").write(tmp_path / "bert.gguf"))
    assert bert["pooling"] == "mean; it gives embeddings, and writes no text"
    assert bert["vocabulary"] == "13 tokens, wordpiece"


def test_what_legacy_files_lack(tmp_path: Path, rows: Rows) -> None:
    draft = tiny_neox()
    draft.words[0] = b"<s>"
    found = rows(draft.write(tmp_path / "x.bin"))
    assert (found["format"], found["end of text"], found["n rot"]) == ("ggml", "none", "4")
    assert (found["merges"], found["pre-tokenizer"]) == ("none in the file", "not named")


def test_tensors_are_listed_and_names_cannot_move_the_cursor(tmp_path: Path, rows: Rows) -> None:
    draft = tiny_falcon()
    draft.metadata["general.name"] = (8, "a\x1b[2Jb\n")
    found = rows(draft.write(tmp_path / "x"), "--tensors")
    assert found["blk.1.attn_qkv.weight"] == "F32    32 x 48"
    assert found["name"] == "a\ufffd[2Jb\ufffd"


def test_buffers_that_are_too_small_are_named(tmp_path: Path, rows: Rows) -> None:
    draft = tiny_mpt(n_embd=128, n_head=64, n_layer=1, n_ctx=40_000, empty=True)
    found = rows(draft.write_sparse(tmp_path / "x"))
    assert found["context"] == "40,000 tokens; the engine's buffers hold 8,123"
    assert found["scratch"].endswith(" at 4,096 tokens")


def test_too_little_memory(tmp_path: Path, rows: Rows) -> None:
    found = rows(tiny_falcon().write(tmp_path / "x"), status=1, memory=10 << 20)
    assert re.match(
        r"no, it needs 1\d MiB .* with a context of 512 .* 10 MiB are free", found["servable"]
    )


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


def test_what_became_of_convert(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    assert main(["convert", "folder", "model.bin"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "convert_hf_to_gguf.py" in line
