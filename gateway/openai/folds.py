"""From events to an answer: chunk by chunk, or as one object. A fold over the same events."""

from typing import Any, TypeAlias

import orjson

from gateway import sse
from gateway.openai import responses
from gateway.openai.responses import ChatChunk, ChatCompletion, Choice, TextCompletion
from gateway.openai.translate import AnswerPlan
from shared.messages import Delta, Finished, Prefilled
from shared.typing import assert_never

Progress: TypeAlias = Prefilled | Delta | Finished
"""An event of a generation that has not failed."""

# Where the text of a chunk belongs. No string in JSON holds a zero byte.
_HOLE = b"\0"


class Tally:
    """Counts tokens; the prompt that several choices share is counted once."""

    def __init__(self, n: int) -> None:
        """Count for ``n`` choices of each prompt."""
        self._n = n
        self._prompt = self._cached = self._completion = 0

    def prefilled(self, index: int, event: Prefilled) -> None:
        """Count the prompt of choice ``index``, if it is the first with that prompt."""
        if index % self._n == 0:
            self._prompt += event.prompt_tokens
            self._cached += event.cached_tokens

    def finished(self, event: Finished) -> None:
        """Count a completion."""
        self._completion += event.completion_tokens

    def usage(self) -> responses.Usage:
        """What it all came to."""
        return responses.usage(self._prompt, self._cached, self._completion)


class StreamFold:
    """Makes the events of a stream, as bytes."""

    def __init__(self, plan: AnswerPlan) -> None:
        """Begin the answer that ``plan`` lays out."""
        self._header = plan.header
        self._chat = plan.chat
        self._include_usage = plan.include_usage
        self._tally = Tally(plan.n)
        # For each choice that has begun, what comes before and after a piece of its text.
        self._envelopes: dict[int, tuple[bytes, bytes]] = {}

    def feed(self, index: int, event: Progress) -> bytes:
        """What to send because of this event; empty if nothing."""
        match event:
            case Delta():
                beginning = b"" if index in self._envelopes else self._begin(index)
                before, after = self._envelopes[index]
                return b"%b%b%b%b" % (beginning, before, orjson.dumps(event.text), after)
            case Prefilled():
                self._tally.prefilled(index, event)
                return b""
            case Finished():
                self._tally.finished(event)
                beginning = b"" if index in self._envelopes else self._begin(index)
                return beginning + self._finish(index, event.finish_reason)
            case _:
                assert_never(event)

    def end(self) -> bytes:
        """What to send after the last event."""
        if not self._include_usage:
            return sse.DONE
        chunk: ChatChunk | TextCompletion
        if self._chat:
            chunk = responses.chat_chunk(self._header, [])
        else:
            chunk = responses.text_chunk(self._header, [])
        chunk["usage"] = self._tally.usage()
        return sse.event(chunk) + sse.DONE

    def _begin(self, index: int) -> bytes:
        """Prepare the envelope of a choice; returns what to send before its first text."""
        before, after = self._text_event(index, orjson.Fragment(_HOLE)).split(_HOLE)
        self._envelopes[index] = before, after
        return self._chat_event(index, {"role": "assistant", "content": ""}) if self._chat else b""

    def _text_event(self, index: int, text: Any) -> bytes:
        if self._chat:
            return self._chat_event(index, {"content": text})
        return self._event(responses.text_chunk(self._header, [responses.text_choice(index, text)]))

    def _finish(self, index: int, reason: str) -> bytes:
        if self._chat:
            return self._chat_event(index, {}, reason)
        choice = responses.text_choice(index, "", reason)
        return self._event(responses.text_chunk(self._header, [choice]))

    def _chat_event(
        self, index: int, delta: responses.ChatDelta, finish_reason: str | None = None
    ) -> bytes:
        choice = responses.chat_delta(index, delta, finish_reason)
        return self._event(responses.chat_chunk(self._header, [choice]))

    def _event(self, chunk: ChatChunk | TextCompletion) -> bytes:
        if self._include_usage:
            chunk["usage"] = None
        return sse.event(chunk)


class ObjectFold:
    """Collects the whole answer."""

    def __init__(self, plan: AnswerPlan) -> None:
        """Begin the answer that ``plan`` lays out."""
        self._plan = plan
        self._tally = Tally(plan.n)
        self._texts: list[list[str]] = [[] for _ in plan.generations]
        self._finish_reasons = [""] * len(plan.generations)

    def feed(self, index: int, event: Progress) -> None:
        """Take one event."""
        match event:
            case Delta():
                self._texts[index].append(event.text)
            case Prefilled():
                self._tally.prefilled(index, event)
            case Finished():
                self._tally.finished(event)
                self._finish_reasons[index] = event.finish_reason
            case _:
                assert_never(event)

    def result(self) -> ChatCompletion | TextCompletion | str | list[str]:
        """The answer, when all generations have finished."""
        texts = ["".join(pieces) for pieces in self._texts]
        if self._plan.form == "text":
            return texts[0] if len(texts) == 1 else texts
        choices = [Choice(*pair) for pair in zip(texts, self._finish_reasons, strict=True)]
        make = responses.chat_completion if self._plan.chat else responses.text_completion
        return make(self._plan.header, choices, self._tally.usage())
