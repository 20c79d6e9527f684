"""Finds the calls in what a model writes, piece by piece as it comes.

The text was held to the form by a grammar, so nothing in it has to be doubted: it ends in the
midst of a call only if it was cut, by its length or by a stop string.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from shared.overlap import overlap
from shared.tool_calls import CALL_ARGUMENTS, CALL_BEGIN, OPEN


@dataclass(frozen=True, slots=True)
class Content:
    """Text before the first call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call begins; ``place`` counts the calls of an answer, from 0."""

    place: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A further piece of a call's arguments, which are JSON."""

    place: int
    text: str


Piece: TypeAlias = Content | CallBegun | Arguments


class ToolCallReader:
    """Reads one answer.

    Attributes:
        n_calls: how many calls have begun.
    """

    def __init__(self) -> None:
        """Begin before the first letter."""
        self.n_calls = 0
        self._held = ""
        self._read: Callable[[list[Piece]], bool] = self._read_content
        self._scanner = _ObjectScanner()

    def push(self, text: str) -> list[Piece]:
        """Take a further piece of the answer; returns what can be said because of it."""
        self._held += text
        pieces: list[Piece] = []
        while self._read(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """What was held back, now that no more comes; half a call is nothing."""
        held, self._held = self._held, ""
        is_content = self._read == self._read_content
        return [Content(held)] if held and is_content else []

    def finish_reason(self, reason: str) -> str:
        """Why the answer ended, as OpenAI's API says it; a call cut short is none to make."""
        is_cut = self._read == self._read_arguments
        return "tool_calls" if self.n_calls and reason == "stop" and not is_cut else reason

    # Each reads one part, and says whether there is enough text to go on.

    def _read_content(self, pieces: list[Piece]) -> bool:
        start = self._held.find(OPEN)
        is_found = start >= 0
        if not is_found:
            start = len(self._held) - overlap(self._held, OPEN)
        # White space between text and a call belongs to neither.
        content = self._held[:start].rstrip()
        if content:
            pieces.append(Content(content))
        if is_found:
            self._held = self._held[start:]
            self._read = self._read_head
        else:
            self._held = self._held[len(content) :]
        return is_found

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
            pieces.append(Arguments(self.n_calls - 1, self._held[:length]))
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


def call_id() -> str:
    """A fresh name for a call."""
    return f"call_{uuid.uuid4().hex[:24]}"
