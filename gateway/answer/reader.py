"""From the events of a generation to the pieces of its answer; one for streams and whole answers.

A text that may call tools was held to the form of `shared.tool_calls` by a grammar, so nothing in
it has to be doubted: it ends in the midst of a call only if it was cut by its length.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import orjson

from gateway.answer.pieces import Begun, CallArguments, CallBegun, Ended, Logprobs, Piece, Text
from gateway.ask import Ask
from shared.messages import Delta, Finished, Prefilled
from shared.overlap import overlap
from shared.tool_calls import CALL_ARGUMENTS, CALL_BEGIN, OPEN
from shared.typing import assert_never

Progress: TypeAlias = Prefilled | Delta | Finished
"""An event of a generation that has not failed."""


class Reader(Protocol):
    """Makes pieces of the events of one generation."""

    is_over: bool
    """Whether nothing more is wanted, though the generation goes on."""

    def read(self, event: Progress) -> Sequence[Piece]:
        """What the next event says."""


class TextReader:
    """Reads an answer that is text to its end; it may begin with its prompt."""

    is_over = False

    def __init__(self, echo: str = "") -> None:
        self._echo = echo

    def read(self, event: Progress) -> Sequence[Piece]:
        if isinstance(event, Delta):
            return (Text(event.text, event.logprobs),)
        if isinstance(event, Prefilled):
            return (_begun(event, self._echo),)
        tokens = event.completion_tokens
        return (Ended(event.finish_reason, tokens, embedding=event.embedding),)


def reader_for(ask: Ask, prompt: str) -> Reader:
    if ask.tools.functions:
        return CallReader(ask.stop)
    return TextReader(prompt if ask.echoes else "")


class CallReader:
    """Reads an answer that may call tools, after text of which the client sees all.

    The client's stop strings end the text here: to a worker the form of calls is text like any.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.is_over = False
        self._parser = CallParser(stop)
        self._completion_tokens = 0
        self._held: Logprobs = ()  # of text that the parser holds back

    def read(self, event: Progress) -> Sequence[Piece]:
        match event:
            case Delta():
                self._completion_tokens += event.tokens
                self._held += event.logprobs
                pieces = self._told(self._parser.push(event.text))
                if not self._parser.is_stopped:
                    return pieces
                self.is_over = True
                return [*pieces, Ended("stop", self._completion_tokens)]
            case Prefilled():
                return (_begun(event),)
            case Finished():
                pieces = self._told(self._parser.flush())
                reason = self._parser.finish_reason(event.finish_reason)
                reason = "stop" if self._parser.is_stopped else reason
                return [*pieces, Ended(reason, event.completion_tokens, self._held)]
            case _:
                assert_never(event)

    def _told(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces, the first with the log probabilities of all since the last."""
        if pieces:
            first = pieces[0]
            assert isinstance(first, Text | CallBegun | CallArguments), "the parser makes no other"
            first.logprobs, self._held = self._held, ()
        return pieces


def _begun(event: Prefilled, echo: str = "") -> Begun:
    return Begun(event.prompt_tokens, event.cached_tokens, echo, event.echo_logprobs)


class CallParser:
    """Finds text and calls in what a model writes, as it comes."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.is_stopped = False
        self.n_calls = 0
        self._stop = stop
        self._held = ""
        self._read = self._read_text
        self._scanner = _ObjectScanner()

    def push(self, text: str) -> list[Piece]:
        """Take further text; returns what it says."""
        self._held += text
        pieces: list[Piece] = []
        while not self.is_stopped and self._read(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """What was held back, now that no more comes; half a call is nothing."""
        held, self._held = self._held, ""
        text = self._until_stop(held) if self._read == self._read_text else ""
        return [Text(text)] if text else []

    def finish_reason(self, reason: str) -> str:
        """Why the answer ended; a call cut short is none to make."""
        is_cut = self._read == self._read_arguments
        return "tool_calls" if self.n_calls and reason == "stop" and not is_cut else reason

    # Each reads one part, and says whether there is enough text to go on.

    def _read_text(self, pieces: list[Piece]) -> bool:
        start = self._held.find(OPEN)
        is_found = start >= 0
        if not is_found:
            start = len(self._held) - overlap(self._held, OPEN)
        # White space between text and a call belongs to neither.
        whole = self._held[:start].rstrip()
        text = self._until_stop(whole)
        if not is_found and not self.is_stopped and self._stop:
            text = text[: len(text) - max(overlap(text, each) for each in self._stop)]
        if text:
            pieces.append(Text(text))
        self._held = self._held[start if is_found else len(text) :]
        if is_found:
            self._read = self._read_head
        return is_found

    def _until_stop(self, text: str) -> str:
        ends = [place for each in self._stop if (place := text.find(each)) >= 0]
        self.is_stopped = bool(ends)
        return text[: min(ends)] if ends else text

    def _read_head(self, pieces: list[Piece]) -> bool:
        end = self._held.find(CALL_ARGUMENTS)
        if end < 0:
            return False
        pieces.append(CallBegun(self.n_calls, orjson.loads(self._held[len(CALL_BEGIN) : end])))
        self.n_calls += 1
        self._held = self._held[end + len(CALL_ARGUMENTS) :]
        self._read, self._scanner = self._read_arguments, _ObjectScanner()
        return True

    def _read_arguments(self, pieces: list[Piece]) -> bool:
        length = self._scanner.scan(self._held)
        if length:
            pieces.append(CallArguments(self.n_calls - 1, self._held[:length]))
        self._held = self._held[length:]
        if self._scanner.is_over:
            self._read = self._read_on
        return self._scanner.is_over

    def _read_on(self, pieces: list[Piece]) -> bool:
        """Pass over the end of a call, up to the next."""
        start = self._held.find(OPEN)
        if start < 0:
            return False
        self._held = self._held[start:]
        self._read = self._read_head
        return True


class _ObjectScanner:
    """Finds the end of a JSON object."""

    def __init__(self) -> None:
        self.is_over = False
        self._depth = 0
        self._in_string = self._is_escaped = False

    def scan(self, text: str) -> int:
        """How many letters of the text belong to the object."""
        for place, letter in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif letter == "\\":
                    self._is_escaped = True
                elif letter == '"':
                    self._in_string = False
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_over = True
                    return place + 1
        return len(text)
