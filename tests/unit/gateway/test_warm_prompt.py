"""Tests of the prompt that workers are born with."""

from pathlib import Path

import pytest

from gateway.chat.choice import load_chat_template
from gateway.pool.prefix import Prefix
from gateway.serving import ServingConfig
from gateway.warm_prompt import load_warm_prompt, warm_prompts
from shared.errors import UsageError
from shared.messages import ModelInfo
from tests.unit.gateway.fakes import CONFIG, MODEL

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


def common(text: str, config: ServingConfig, model: ModelInfo) -> str:
    prompts = warm_prompts(text, config)
    assert prompts is not None
    first, *others = (Prefix("".join(prompt)) for prompt in prompts(model))
    return first.text[: min((first.shared_length(each) for each in others), default=len(first))]


def with_format(name: str) -> ServingConfig:
    return ServingConfig("m", "m.gguf", 2, 1000, 1, chat_template=load_chat_template(name))


def test_in_a_chat_it_is_the_system_message() -> None:
    assert common(TEXT, with_format("chatml"), MODEL) == (
        f"<|im_start|>system\n{TEXT}<|im_end|>\n<|im_start|>user\n"
    )


def test_without_a_chat_format_it_is_the_beginning_of_texts() -> None:
    assert common(TEXT, CONFIG, MODEL) == TEXT
    assert warm_prompts(None, CONFIG) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "{{ raise_exception('no system') }}",
            "a system message of it cannot be used: .*no system",
        ),
        ("{{ messages[-1]['content'] }}", "the chat template .* leaves out system messages"),
    ],
)
def test_a_format_that_takes_none(source: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(source)
    with pytest.raises(ValueError, match=reason):
        common(TEXT, with_format(str(path)), MODEL)
