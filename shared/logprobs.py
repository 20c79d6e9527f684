"""How likely the model found tokens, as it crosses the process boundary.

There are half a dozen of these for each token: named tuples are made, encoded and decoded in a
fifth of the time of frozen dataclasses.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Candidate(NamedTuple):
    """A token that might have come next."""

    #: Its bytes, one letter of ISO 8859-1 for each; of a token that adds no text (such as the one
    #: that ends a turn), those of its name.
    raw: str
    #: Natural logarithm of its probability by the model's own distribution, which no sampling
    #: parameter has changed; None for the first token of a prompt.
    logprob: float | None
    is_control: bool = False  #: whether it adds no text

    @property
    def bytes(self) -> bytes:
        """The bytes of the token, or of its name."""
        return self.raw.encode("latin-1")


class TokenLogprobs(NamedTuple):
    """A token that is there, and what else was likely in its place."""

    chosen: Candidate
    top: tuple[Candidate, ...] = ()  #: the likeliest first; as many as were asked for


def token_logprobs(decoded: Iterable[Any]) -> tuple[TokenLogprobs, ...]:
    """Make values of the lists that JSON has made of them."""
    return tuple(
        [
            TokenLogprobs(Candidate._make(chosen), tuple(map(Candidate._make, top)))
            for chosen, top in decoded
        ]
    )
