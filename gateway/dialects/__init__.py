"""The API dialects: each is one file, a pure function of bodies and pieces.

A dialect reads a body into an `Ask`, and writes pieces as the bytes of a stream or as one object.
It knows no web framework, no pool and no settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from pydantic import BaseModel

from gateway.answer.pieces import Piece, Usage
from gateway.ask import Ask
from gateway.errors import ApiError, Shape, error_body

EVENT_STREAM = "text/event-stream; charset=utf-8"
"""The media type of server-sent events."""


def event(content: object) -> bytes:
    """A server-sent event whose data is ``content`` as a line of JSON."""
    return b"data: %b\n\n" % orjson.dumps(content)


@dataclass(frozen=True, slots=True)
class Header:
    """What the object, or every chunk, of one answer begins with."""

    id: str
    created: int  #: seconds of Unix time
    model: str
    system_fingerprint: str


class Writer(Protocol):
    """Writes one answer: a stream by `piece` and `end`, a whole one by `collect` and `whole`."""

    media_type: str
    """Of a stream."""

    def piece(self, index: int, piece: Piece) -> bytes:
        """What to send because of a piece of generation ``index``; empty if nothing."""

    def end(self, usage: Usage) -> bytes:
        """What to send after the last piece."""

    def failed(self, error: ApiError) -> bytes:
        """What to send last if the stream cannot be ended."""

    def collect(self, index: int, piece: Piece) -> None:
        """Take a piece of an answer that is given as a whole."""

    def whole(self, usage: Usage) -> Any:
        """The whole answer, when everything has ended: a value for JSON, or its bytes."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One path, and what the OpenAPI document says of it."""

    path: str
    tag: str
    description: str
    bodies: tuple[type[BaseModel], ...]  #: what a body may be
    example: Mapping[str, Any]  #: of a body
    answer: str  #: what a whole answer is: a schema of OpenAI's, or a sentence
    streams: bool = False


@dataclass(frozen=True, kw_only=True)
class Dialect(Endpoint):
    """One endpoint's way to ask and to answer."""

    id_prefix: str  #: of the answer's id
    read: Callable[[Mapping[str, Any]], Ask]  #: a body; `ApiError` names the field at fault
    writer: Callable[[Ask, Header], Writer]  #: begins to answer what `read` has read
    error: Shape = error_body  #: the body of an error response, whoever makes it
