"""Tests of the prompt that workers are born with."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.prefix import Prefix
from gateway.warm_prompt import load_warm_prompt, warm_prompts
from shared.errors import UsageError
from shared.messages import Failed, ModelInfo, Prepare, Prepared, Question
from shared.model_info import PLAIN_ORIGIN
from tests.unit.gateway.fakes import MODEL, bytewise, text_of

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
    path.write_text(f"{TEXT} é")
    monkeypatch.chdir(tmp_path)
    for setting in (name, f"@{name}", str(path)):
        assert load_warm_prompt(setting) == f"{TEXT} é"


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


def ids_of(text: str, model: ModelInfo, answer: Callable[[Prepare], Prepared | Failed]) -> Any:
    prompts = warm_prompts(text)
    assert prompts is not None

    async def prepare(question: Question) -> Prepared | Failed:
        assert isinstance(question, Prepare)
        return answer(question)

    return asyncio.run(_awaited(prompts(model, prepare)))


async def _awaited(prompts: Awaitable[Any]) -> Any:
    return await prompts


def test_in_a_chat_it_is_the_system_message() -> None:
    first, second = ids_of(TEXT, MODEL, bytewise)
    n_shared = Prefix(first).shared_length(Prefix(second))
    assert text_of(first[:n_shared]) == f"system: {TEXT}\nuser: "


def test_without_a_chat_format_it_is_the_beginning_of_texts() -> None:
    plain = replace(MODEL, chat_format_origin=PLAIN_ORIGIN)
    (prompt,) = ids_of(TEXT, plain, bytewise)
    assert text_of(prompt) == TEXT
    assert warm_prompts(None) is None


def test_a_format_that_takes_none() -> None:
    def refuses(question: Prepare) -> Failed:
        return Failed(question.request_id, "invalid_value", "no system")

    with pytest.raises(ValueError, match="a system message of it cannot be used: no system"):
        ids_of(TEXT, MODEL, refuses)
    with pytest.raises(ValueError, match=r"the chat template .* leaves out system messages"):
        ids_of(TEXT, MODEL, lambda question: Prepared(question.request_id, (1,), "Hi"))
