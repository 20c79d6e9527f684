"""How likely the model found tokens, as it crosses the process boundary."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that might have come next.

    Attributes:
        raw: its bytes, one letter of ISO 8859-1 for each; of a token that adds no text (such as the
            one that ends a turn), those of its name.
        logprob: natural logarithm of its probability by the model's own distribution, which no
            sampling parameter has changed; None for the first token of a prompt, which has none.
        is_control: whether it adds no text.
    """

    raw: str
    logprob: float | None
    is_control: bool = False

    @property
    def bytes(self) -> bytes:
        """The bytes of the token, or of its name."""
        return self.raw.encode("latin-1")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token that is there, and what else was likely in its place.

    Attributes:
        chosen: the token.
        top: the most likely tokens, the likeliest first; as many as were asked for.
    """

    chosen: Candidate
    top: tuple[Candidate, ...] = ()


def token_logprobs(decoded: Iterable[Any]) -> tuple[TokenLogprobs, ...]:
    """Make values of the dictionaries that JSON has made of them."""
    return tuple(
        TokenLogprobs(
            Candidate(**each["chosen"]), tuple(Candidate(**other) for other in each["top"])
        )
        for each in decoded
    )
