"""The tokens that all workers are forked with (``WARM_PROMPT``)."""

import select
from collections.abc import Sequence

from shared.encoding import pack, unpack
from shared.errors import EngineError
from shared.messages import Chat, Text
from shared.model_info import PLAIN_ORIGIN
from worker.engines.base import Engine
from worker.grammar.trial import GrammarRefused, Trial
from worker.prompt.prompts import Parts, PromptError, Prompts

# What these two conversations have in common ends where a user begins to speak.
_QUESTIONS = ("A", "0")
_DONE = "="


def warm_ids(engine: Engine, prompts: Prompts, text: str) -> tuple[int, ...]:
    """What the chats of a model begin with whose system message is ``text``.

    For a model of which no chat format is known it is the text itself. It is rendered in a fork,
    since a chat template may do anything.

    Raises:
        EngineError: the chat format has no place for it.
    """

    def work() -> str:
        try:
            parts = _parts(prompts, text, engine.info.chat_format_origin == PLAIN_ORIGIN)
        except (PromptError, ValueError) as error:
            return str(error)
        return _DONE + pack(_common([engine.tokenize(each) for each in parts]))

    try:
        trial = Trial(work)
        while (report := trial.result()) is None:
            select.select([trial], [], [], 1)
    except (GrammarRefused, OSError) as error:
        raise EngineError("the chat template cannot be rendered") from error
    if not report.startswith(_DONE):
        raise EngineError(report)
    return unpack(report.removeprefix(_DONE))


def _parts(prompts: Prompts, text: str, is_plain: bool) -> list[Parts]:
    if is_plain:
        return [prompts.of_text(Text(text))]
    system = {"role": "system", "content": text}
    try:
        rendered = [
            prompts.of_chat(Chat((system, {"role": "user", "content": question})))
            for question in _QUESTIONS
        ]
    except PromptError as error:
        raise ValueError(f"a system message of it cannot be used: {error}") from error
    if text.strip() not in "".join(rendered[0]):
        raise ValueError(f"the chat template {prompts.name!r} leaves out system messages")
    return rendered


def _common(sequences: Sequence[Sequence[int]]) -> list[int]:
    first, *others = sequences
    n = 0
    while all(n < len(each) and each[n] == first[n] for each in (first, *others)):
        n += 1
    return list(first[:n])
