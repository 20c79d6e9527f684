"""The pieces of an answer, which each dialect writes in its own way.

Not frozen: one is made for each token, and that would take three times as long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shared.logprobs import TokenLogprobs
from shared.typing import assert_never

Logprobs: TypeAlias = tuple[TokenLogprobs, ...]
"""Of the tokens that begin in a piece."""


@dataclass(slots=True)
class Begun:
    """The prompt has been evaluated."""

    prompt_tokens: int
    cached_tokens: int
    echo: str = ""
    echo_logprobs: Logprobs = ()


@dataclass(slots=True)
class Text:
    """Further text; empty only if it has log probabilities."""

    text: str
    logprobs: Logprobs = ()


@dataclass(slots=True)
class CallBegun:
    """A call begins; ``place`` counts the calls of an answer, from 0."""

    place: int
    name: str
    logprobs: Logprobs | None = None  #: None if the piece before has them


@dataclass(slots=True)
class CallArguments:
    """Further text of a call's arguments, which are JSON."""

    place: int
    text: str
    logprobs: Logprobs | None = None


@dataclass(slots=True)
class Ended:
    """There is no more."""

    reason: str  #: ``stop``, ``length``, ``tool_calls`` or ``cancelled``
    completion_tokens: int
    logprobs: Logprobs = ()  #: of tokens that no piece has told of, such as those that end a call
    embedding: str = ""  #: see `shared.messages.Finished`


Piece: TypeAlias = Begun | Text | CallBegun | CallArguments | Ended


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole answer; a prompt that several choices share counts once."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Call:
    """A call of a finished choice; arguments are JSON, as text."""

    name: str
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    """All pieces of one generation together."""

    texts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    begun: Begun = field(default_factory=lambda: Begun(0, 0))
    finish_reason: str = ""

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        match piece:
            case Text():
                self.texts.append(piece.text)
                self.logprobs += piece.logprobs
            case Begun():
                self.begun = piece
            case CallBegun():
                self.calls.append(Call(piece.name))
                self.logprobs += piece.logprobs or ()
            case CallArguments():
                self.calls[piece.place].arguments += piece.text
                self.logprobs += piece.logprobs or ()
            case Ended():
                self.logprobs += piece.logprobs
                self.finish_reason = piece.reason
            case _:
                assert_never(piece)

    @property
    def text(self) -> str:
        return self.begun.echo + "".join(self.texts)

    @property
    def mean_logprob(self) -> float:
        """Of the tokens that were generated; of none, less than of any."""
        values = [token.chosen.logprob or 0.0 for token in self.logprobs]
        return sum(values) / len(values) if values else -math.inf


def best(choices: Sequence[Choice], candidates: int, n: int) -> list[Choice]:
    """Of each ``candidates`` in a row the ``n`` whose tokens were the likeliest."""
    if candidates == n:
        return list(choices)
    rows = [choices[first : first + candidates] for first in range(0, len(choices), candidates)]
    ranked = [sorted(row, key=lambda each: each.mean_logprob, reverse=True) for row in rows]
    return [choice for row in ranked for choice in row[:n]]
