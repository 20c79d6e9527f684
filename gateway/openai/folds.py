"""From events to an answer: chunk by chunk, or as one object. A fold over the same events."""

from typing import Any, TypeAlias

import orjson

from gateway import sse
from gateway.openai import responses
from gateway.openai.choices import ChoiceFold, best
from gateway.openai.logprobs import TextLogprobsFold, chat_logprobs
from gateway.openai.responses import ChatChunk, ChatCompletion, ChatLogprobs, TextCompletion
from gateway.openai.tool_calls import (
    Arguments,
    CallBegun,
    Content,
    Piece,
    ToolCallReader,
    call_id,
)
from gateway.openai.translate import AnswerPlan
from shared.logprobs import TokenLogprobs
from shared.messages import Delta, Finished, Prefilled
from shared.typing import assert_never

Progress: TypeAlias = Prefilled | Delta | Finished
"""An event of a generation that has not failed."""

# Where the text of a chunk belongs. No string in JSON holds a zero byte.
_HOLE = b"\0"


class Tally:
    """Counts tokens; the prompt that several choices share is counted once."""

    def __init__(self, n: int) -> None:
        """Count for ``n`` generations of each prompt."""
        self._n = n
        self._prompt = self._cached = self._completion = 0

    def prefilled(self, index: int, event: Prefilled) -> None:
        """Count the prompt of generation ``index``, if it is the first with that prompt."""
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
        self._tells_logprobs = plan.tells_logprobs
        self._plan = plan
        self._tally = Tally(plan.candidates)
        # For each choice that has begun, what comes before and after a piece of its text.
        self._envelopes: dict[int, tuple[bytes, bytes]] = {}
        n = len(plan.generations)
        self._readers = [ToolCallReader() for _ in range(n)] if plan.calls_tools else []
        self._text_logprobs = [TextLogprobsFold() for _ in range(n if self._tells_logprobs else 0)]
        # Of text that a reader still holds back.
        self._held_logprobs: dict[int, tuple[TokenLogprobs, ...]] = {}

    def feed(self, index: int, event: Progress) -> bytes:
        """What to send because of this event; empty if nothing."""
        match event:
            case Delta():
                if self._readers:
                    pieces = self._readers[index].push(event.text)
                    return self._send_pieces(index, pieces, event.logprobs)
                beginning = b"" if index in self._envelopes else self._begin(index)
                if self._tells_logprobs:
                    return beginning + self._send_text(index, event.text, event.logprobs)
                before, after = self._envelopes[index]
                return b"%b%b%b%b" % (beginning, before, orjson.dumps(event.text), after)
            case Prefilled():
                self._tally.prefilled(index, event)
                if not (echo := self._plan.echo(index)):
                    return b""
                return self._begin(index) + self._send_echo(index, echo, event)
            case Finished():
                self._tally.finished(event)
                sent, reason = b"", event.finish_reason
                if self._readers:
                    reader = self._readers[index]
                    sent = self._send_pieces(index, reader.flush(), ())
                    reason = reader.finish_reason(reason)
                beginning = b"" if index in self._envelopes else self._begin(index)
                return sent + beginning + self._finish(index, reason)
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
        return self._send_choice(responses.text_choice(index, text))

    def _send_echo(self, index: int, echo: str, event: Prefilled) -> bytes:
        """The prompt of a completion, with what there is to say of its tokens."""
        if not self._tells_logprobs:
            return self._text_event(index, echo)
        told = self._text_logprobs[index].feed_echo(echo, event.echo_logprobs)
        return self._send_choice(responses.text_choice(index, echo, logprobs=told))

    def _send_text(self, index: int, text: str, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        """Text with what there is to say of its tokens."""
        if self._chat:
            return self._chat_event(index, {"content": text}, logprobs=chat_logprobs(logprobs))
        told = self._text_logprobs[index].feed(logprobs)
        return self._send_choice(responses.text_choice(index, text, logprobs=told))

    def _send_pieces(
        self, index: int, pieces: list[Piece], logprobs: tuple[TokenLogprobs, ...]
    ) -> bytes:
        """Pieces of an answer that may call tools; the first has the logprobs of all."""
        held = self._held_logprobs.get(index, ()) + logprobs
        if not pieces:
            self._held_logprobs[index] = held
            return b""
        self._held_logprobs[index] = ()
        sent = b"" if index in self._envelopes else self._begin(index)
        for place, piece in enumerate(pieces):
            told = chat_logprobs(held) if self._tells_logprobs and place == 0 else None
            sent += self._chat_event(index, _delta_of(piece), logprobs=told)
        return sent

    def _finish(self, index: int, reason: str) -> bytes:
        if not self._chat:
            return self._send_choice(responses.text_choice(index, "", reason))
        held = self._held_logprobs.get(index)  # of the end of a call
        told = chat_logprobs(held) if held and self._tells_logprobs else None
        return self._chat_event(index, {}, reason, told)

    def _send_choice(self, choice: responses.TextChoice) -> bytes:
        return self._event(responses.text_chunk(self._header, [choice]))

    def _chat_event(
        self,
        index: int,
        delta: responses.ChatDelta,
        finish_reason: str | None = None,
        logprobs: ChatLogprobs | None = None,
    ) -> bytes:
        choice = responses.chat_delta(index, delta, finish_reason, logprobs)
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
        self._tally = Tally(plan.candidates)
        self._choices = [ChoiceFold(plan.echo(index)) for index in range(len(plan.generations))]

    def feed(self, index: int, event: Progress) -> None:
        """Take one event."""
        self._choices[index].feed(event)
        match event:
            case Prefilled():
                self._tally.prefilled(index, event)
            case Finished():
                self._tally.finished(event)
            case Delta():
                pass
            case _:
                assert_never(event)

    def result(self) -> ChatCompletion | TextCompletion | str | list[str]:
        """The answer, when all generations have finished."""
        plan = self._plan
        finished = best(self._choices, plan.candidates, plan.n)
        if plan.form == "text":
            texts = [fold.text for fold in finished]
            return texts[0] if len(texts) == 1 else texts
        choices = [fold.choice(plan) for fold in finished]
        make = responses.chat_completion if plan.chat else responses.text_completion
        return make(plan.header, choices, self._tally.usage())


def _delta_of(piece: Piece) -> responses.ChatDelta:
    match piece:
        case Content(text):
            return {"content": text}
        case CallBegun(place, name):
            call: responses.ToolCallDelta = {
                "index": place,
                "id": call_id(),
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            return {"tool_calls": [call]}
        case Arguments(place, text):
            return {"tool_calls": [{"index": place, "function": {"arguments": text}}]}
        case _:
            assert_never(piece)
