"""One completion's way through a grammar: which tokens may come next."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from llguidance import LLMatcher

# The lines of a grammar around a mistake, numbered, and the mark below its place.
_LISTING = re.compile(r"^ *(\d+ \|.*|\^)$\n?", re.MULTILINE)
# Where that is: its line, which is among those.
_PLACE = re.compile(r"^at (\d+)\(\d+\)(?=: )")
_LONGEST_PROBLEM = 300


class GrammarError(Exception):
    """A grammar that cannot be used; the text is for the client."""


class Matcher:
    """One completion's way through a grammar."""

    def __init__(self, matcher: "LLMatcher", n_vocab: int, eog: Sequence[int]) -> None:
        """Begin where ``matcher`` is."""
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._eog = list(eog)
        #: nothing can follow any more; the completion is whole
        self.is_complete = False
        #: it took too much to find out how to go on
        self.failed = False

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape ``(n_vocab,)``.

        Those that end the generation are among them where the completion may end.

        Raises:
            GrammarError: that takes too much to find out, or there is none.
        """
        matcher = self._matcher
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            self.failed = True
            raise GrammarError(problem_of(matcher.get_error()))
        unpacked = np.unpackbits(bits, count=self._n_vocab, bitorder="little")
        mask: NDArray[np.bool_] = unpacked.view(np.bool_)
        if self._eog:
            mask[self._eog] = matcher.is_accepting()
        if not mask.any():
            raise GrammarError("no token is allowed next")
        return mask

    def accept(self, token: int) -> None:
        """Take the token that has been drawn, one of those that were allowed.

        Raises:
            GrammarError: it was not, or what follows takes too much to find out.
        """
        if not self._matcher.consume_token(token):
            self.failed = True
            raise GrammarError(problem_of(self._matcher.get_error()))
        self.is_complete = self._matcher.is_stopped()


def problem_of(text: str) -> str:
    """What llguidance says, in one line, and without the grammar: that may not be the client's.

    Of the grammar it only names the rule that is wrong, if it is one.
    """
    if place := _PLACE.match(text):
        rule = re.search(rf"^ *{place[1]} \| (\w+)(\[\w+\])? *:", text, re.MULTILINE)
        text = f"{place[0]}, in {rule[1]}{text[place.end() :]}" if rule else text
    text = _LISTING.sub("", text).replace("<non-verbose/>", "")
    text = text.replace("NoExtensionBias", "nothing matches it")
    return " ".join(text.split())[:_LONGEST_PROBLEM]
