"""Tests of the prompt that workers are born with."""

from pathlib import Path

import pytest

from gateway.warm_prompt import load_warm_prompt
from shared.errors import UsageError

TEXT = "You are Marvin, and you sigh."


def test_text_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_warm_prompt(None) is None
    for text in (TEXT, "One\nline/after\nanother.txt", "and/or this", "x" * 10_000, "\0", "Sigh."):
        assert load_warm_prompt(text) == text


@pytest.mark.parametrize("name", ["system.txt", "system", "folder/system.md"])
def test_a_file_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for end, kept in (("", ""), ("\n", ""), ("\n\n", "\n")):
        path.write_text(f"{TEXT} é{end}")
        for setting in (name, f"@{name}", str(path)):
            assert load_warm_prompt(setting) == f"{TEXT} é{kept}"


@pytest.mark.parametrize("setting", ["missing.txt", "prompts/missing", "@missing", "@", "@a\0b"])
def test_a_file_that_is_missing(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^WARM_PROMPT={setting}: .*; name a text file$"):
        load_warm_prompt(setting)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "system.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        load_warm_prompt(str(path))
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        load_warm_prompt("half a character: \udcff")
    path.write_bytes(b" \n")
    with pytest.raises(UsageError, match="there is no text in it"):
        load_warm_prompt(str(path))
