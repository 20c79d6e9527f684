"""The prompts of a model whose vocabulary has special tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Chat
from worker.engines.echo import EchoEngine
from worker.prompt.formats import ChatFormat
from worker.prompt.prompts import PromptError, Prompts

CONTROL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "[INST]", "<|end",
    "\u2581end\u2581",
)  # fmt: skip
ADDED = ("<think>", "</think>")
"""Ordinary added tokens, which add to the text."""
SPECIAL = (*CONTROL, *ADDED)


class Vocabulary(EchoEngine):
    """The echo engine with special tokens, whose ids lie above all others."""

    def __init__(self, control: Sequence[str] = CONTROL, added: Sequence[str] = ADDED) -> None:
        super().__init__(WorkerConfig("echo", n_ctx=2048))
        self.texts = (*control, *added)
        self.special_tokens = {text: 1000 + n for n, text in enumerate(self.texts)}
        self._first_added = 1000 + len(control)
        self.info = replace(
            self.info,
            family="llama",
            max_token_bytes=32,
            bos_token="<s>",
            eos_token="</s>",
            fim_tokens=("<|user|>", "<|end|>", "[INST]"),
        )

    def token_bytes(self, token: int) -> bytes:
        if token < 1000:
            return super().token_bytes(token)
        return self.texts[token - 1000].encode() if token >= self._first_added else b""


def prompts(
    source: str | ChatFormat,
    control: Sequence[str] = CONTROL,
    added: Sequence[str] = ADDED,
) -> Prompts:
    chat_format = ChatFormat("test", source) if isinstance(source, str) else source
    return Prompts(Vocabulary(control, added), chat_format)


def parts_of(
    made: Prompts, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, ...]:
    return made.of_chat(Chat(tuple(messages), tuple(tools)))


def text_of(
    made: Prompts, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    return "".join(parts_of(made, messages, tools))


def prompt_error(
    made: Prompts,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    code: ErrorCode = ErrorCode.INVALID_VALUE,
) -> str:
    """What is said of a conversation that has no prompt."""
    with pytest.raises(PromptError) as caught:
        parts_of(made, messages, tools)
    assert caught.value.code is code
    return str(caught.value)
