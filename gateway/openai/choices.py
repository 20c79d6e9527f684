"""One choice of an answer that is given as a whole, folded from its events."""

import math
from collections.abc import Sequence

from gateway.openai.logprobs import TextLogprobsFold, chat_logprobs, joined
from gateway.openai.responses import Choice, ToolCall
from gateway.openai.tool_calls import (
    Arguments,
    CallBegun,
    Content,
    ToolCallReader,
    call_id,
)
from gateway.openai.translate import AnswerPlan
from shared.logprobs import TokenLogprobs
from shared.messages import Delta, Finished, Prefilled
from shared.typing import assert_never


class ChoiceFold:
    """Collects one generation."""

    def __init__(self, echo: str) -> None:
        """Begin before the first event, with the text that the choice begins with."""
        self._echo = echo
        self._echo_logprobs: tuple[TokenLogprobs, ...] = ()
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finish_reason = ""

    def feed(self, event: Prefilled | Delta | Finished) -> None:
        """Take one event."""
        match event:
            case Delta():
                self._texts.append(event.text)
                self._logprobs += event.logprobs
            case Prefilled():
                self._echo_logprobs = event.echo_logprobs
            case Finished():
                self._finish_reason = event.finish_reason
            case _:
                assert_never(event)

    @property
    def text(self) -> str:
        """The whole text."""
        return self._echo + "".join(self._texts)

    @property
    def mean_logprob(self) -> float:
        """Of the tokens that were generated; of none, less than of any."""
        values = [token.chosen.logprob or 0.0 for token in self._logprobs]
        return sum(values) / len(values) if values else -math.inf

    def choice(self, plan: AnswerPlan) -> Choice:
        """What has come of it."""
        told = self._logprobs if plan.tells_logprobs else None
        if not plan.chat:
            if told is None:
                return Choice(self.text, self._finish_reason)
            fold = TextLogprobsFold()
            pieces = [fold.feed_echo(self._echo, self._echo_logprobs), fold.feed(told)]
            return Choice(self.text, self._finish_reason, text_logprobs=joined(pieces))
        logprobs = None if told is None else chat_logprobs(told)
        if not plan.calls_tools:
            return Choice(self.text, self._finish_reason, chat_logprobs=logprobs)
        reader = ToolCallReader()
        text, calls = _read(reader, self.text)
        reason = reader.finish_reason(self._finish_reason)
        return Choice(text, reason, tuple(calls), chat_logprobs=logprobs)


def best(folds: Sequence[ChoiceFold], candidates: int, n: int) -> list[ChoiceFold]:
    """Of each ``candidates`` in a row the ``n`` whose tokens were the likeliest."""
    if candidates == n:
        return list(folds)
    chosen: list[ChoiceFold] = []
    for first in range(0, len(folds), candidates):
        row = folds[first : first + candidates]
        chosen += sorted(row, key=lambda fold: fold.mean_logprob, reverse=True)[:n]
    return chosen


def _read(reader: ToolCallReader, text: str) -> tuple[str, list[ToolCall]]:
    """The text before the calls, and the calls."""
    content = ""
    calls: list[ToolCall] = []
    for piece in (*reader.push(text), *reader.flush()):
        match piece:
            case Content(more):
                content += more
            case CallBegun(_, name):
                called: ToolCall = {
                    "id": call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                calls.append(called)
            case Arguments(place, more):
                calls[place]["function"]["arguments"] += more
            case _:
                assert_never(piece)
    return content, calls
