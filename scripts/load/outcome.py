"""What came of one request: when its text arrived, how it ended, how many tokens it took."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["completed", "failed", "refused", "unavailable", "disconnected", "incomplete"]
"""How a request ended.

``refused`` is a 429 and ``unavailable`` a 503: the server's own word that it is full, so they are
counted apart from failures. ``disconnected`` was closed by the client on purpose, and
``incomplete`` was still running when the test ended.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its client saw it. All times are readings of one monotonic clock, in seconds.

    Attributes:
        name: the scenario's name for it.
        kind: how it ended.
        started_s: just before it was sent.
        ended_s: when the response was at its end, or given up.
        content_s: arrivals of the chunks whose text was not empty.
        text: the whole text.
        finish_reason: the server's.
        code: why it failed, or the HTTP status that refused it.
        detail: the server's own words for that.
        retry_after: the header of that name.
        prompt_tokens: of the usage, 0 without one.
        cached_tokens: prompt tokens that were not evaluated, by the usage.
        completion_tokens: by the usage; without one, chunks with text.
        has_usage: whether the numbers of tokens are the server's.
        max_tokens: what was asked for; 0 if nothing was.
    """

    name: str
    kind: Kind
    started_s: float
    ended_s: float
    content_s: tuple[float, ...] = ()
    text: str = ""
    finish_reason: str | None = None
    code: str = ""
    detail: str = ""
    retry_after: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    has_usage: bool = False
    max_tokens: int = 0

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first text; None if there was none."""
        return self.content_s[0] - self.started_s if self.content_s else None

    @property
    def e2el_s(self) -> float:
        """Seconds from the request to the end of its response."""
        return self.ended_s - self.started_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each token after the first; None if there was no second one."""
        if self.ttft_s is None or self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between one chunk with text and the next: the inter-token latencies."""
        return [b - a for a, b in zip(self.content_s, self.content_s[1:], strict=False)]

    @property
    def tokens_per_chunk(self) -> float:
        """How many tokens a chunk with text stands for; servers may send several in one."""
        return self.completion_tokens / len(self.content_s) if self.content_s else 0.0

    @property
    def is_short(self) -> bool:
        """Whether it is complete with fewer tokens than were asked for."""
        return self.kind == "completed" and self.completion_tokens < self.max_tokens
