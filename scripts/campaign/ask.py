"""What the clients of a campaign ask, what must come of it, and what came."""

from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["chat", "completion", "text"]
"""Of an answer: a chat, a completion, or the short form's JSON string or list of strings."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of a campaign.

    Attributes:
        name: its kind, for the report.
        path: where it goes.
        body: the JSON body.
        shape: of the answer.
        is_stream: whether the answer is to be a stream.
        texts: the undisturbed text of each choice.
        finish_reasons: and why each of them ends.
        deadline_s: seconds that it may take in all, by its own header or the server's setting.
        queue_timeout_s: seconds that it may wait for a worker, likewise.
        headers: further headers.
    """

    name: str
    path: str
    body: dict[str, Any]
    shape: Shape
    is_stream: bool
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    deadline_s: float
    queue_timeout_s: float
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def has_own_deadline(self) -> bool:
        """Whether it asks for less time in all than the server gives."""
        return any(name == "x-request-timeout" for name, _ in self.headers)

    @property
    def has_own_bounds(self) -> bool:
        """Whether it asks for less time than the server gives, in all or in the queue."""
        return any(name.endswith("-timeout") for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Rubbish:
    """A request that must be refused.

    Attributes:
        name: what is wrong with it.
        path: where it goes.
        content: the body.
        statuses: with which statuses it may be refused.
        headers: further headers.
        method: of the request.
    """

    name: str
    path: str
    content: bytes
    statuses: tuple[int, ...] = (400,)
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


End = Literal["complete", "broken", "left", "silent", "not_connected"]
"""How a response ended.

``broken``: the connection was closed, or something that is not HTTP came, before the response was
whole. ``left``: the client went on purpose. ``silent``: the client has waited long enough.
``not_connected``: there was nobody to connect to.
"""


@dataclass(slots=True)
class Answer:
    """What a client saw. All times are readings of one monotonic clock, in seconds.

    Attributes:
        began_s: when it began to connect.
        sent_s: when the last byte of the request had been handed over.
        ended_s: when the response was at its end, or given up.
        status: 0 if there was none.
        headers: of the response, names in small letters.
        body: as far as it came, without the chunked coding.
        end: how it ended.
        why: what the HTTP client said, if it broke.
        trailing: bytes that came behind the end of the response.
        own_delay_s: seconds of all this that the client was slow on purpose.
        content_s: when the pieces of the body came.
    """

    began_s: float
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: End = "silent"
    why: str = ""
    trailing: bytes = b""
    own_delay_s: float = 0.0
    content_s: list[float] = field(default_factory=list)
