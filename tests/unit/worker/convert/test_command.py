"""The command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.reference import references
from tests.unit.worker.convert.folders import edit_json, folder
from worker.convert import command

ROOT = Path(__file__).parents[4]


def test_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "m.bin"
    assert command.main([str(folder("gpt2", tmp_path)), str(target), "--type", "q8_0"]) == 0
    printed = capsys.readouterr()
    size = target.stat().st_size
    assert printed.out == f"{target}: {size:,} bytes, gpt2, q8_0\n"
    # The bar is for terminals only.
    assert printed.err == ""


def test_defaults_and_options(tmp_path: Path) -> None:
    model, target = folder("falcon-7b", tmp_path), tmp_path / "m.bin"
    gguf = next(path for path in references()["falcon-7b"].paths if path.suffix == ".gguf")
    assert command.main([str(model), str(target)]) == 0
    assert target.read_bytes() == gguf.with_suffix(".bin").read_bytes()
    target = tmp_path / "m.gguf"
    arguments = ["--type", "f16", "--format", "gguf", "--context-length", "256"]
    assert command.main([str(model), str(target), *arguments]) == 0
    assert target.read_bytes() == gguf.read_bytes()


def test_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder("gpt2", tmp_path)
    edit_json(model / "tokenizer_config.json", {"chat_template": "x"})
    assert command.main([str(model), str(tmp_path / "m.bin")]) == 0
    assert capsys.readouterr().err.startswith("note: its chat template stays behind")


@pytest.mark.parametrize("length", ["0", "-3"])
def test_impossible_lengths(
    length: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder("gpt2", tmp_path)
    arguments = [str(model), str(tmp_path / "m.bin"), "--context-length", length]
    assert command.main(arguments) == 2
    expected = f"--context-length: {length} is no positive number"
    assert capsys.readouterr().err == f"ggml-fastapi convert: {expected}\n"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "none"), str(tmp_path / "m.bin")]) == 2
    assert re.match("ggml-fastapi convert: .*none: not a folder", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "--type", "q5_1"], ["a", "b", "c"]])
def test_bad_command_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ggml-fastapi convert")


def test_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.model.inspect.inspect", interrupt)
    model = folder("gpt2", tmp_path)
    assert command.main([str(model), str(tmp_path / "m.bin")]) == 130
    assert list(tmp_path.iterdir()) == [model]


def test_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "gguf" else object())
    assert command.main([str(tmp_path), str(tmp_path / "m.bin")]) == 2
    expected = 'gguf: not installed; pip install "ggml-fastapi[convert]"'
    assert capsys.readouterr().err == f"ggml-fastapi convert: {expected}\n"


def test_what_is_imported(tmp_path: Path) -> None:
    """Neither PyTorch for a conversion, nor anything large for a mistake."""
    model = folder("gpt2", tmp_path)
    code = (
        "import sys; from worker.convert.command import main; before = set(sys.modules);"
        f"main([{str(model)!r}, {str(tmp_path / 'm.bin')!r}, '--type', 'q4_0']);"
        "print(*({'numpy', 'gguf'} & before), *({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[1:] == [""]
