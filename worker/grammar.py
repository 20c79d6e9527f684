"""Grammars that bind completions: which tokens may come next."""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.grammar import Grammar
from worker.engines.base import Engine
from worker.grammar_trial import TrialFailed, tried

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from worker.grammar_compiler import Compiler

_MOST_KNOWN = 64
# Of one compiled grammar, one after another.
_MOST_COPIES = 8
# The lines of a grammar around a mistake, numbered, and the mark below its place.
_LISTING = re.compile(r"^ *(\d+ \|.*|\^)$\n?", re.MULTILINE)
# Where that is: its line, which is among those.
_PLACE = re.compile(r"^at (\d+)\(\d+\)(?=: )")
_LONGEST_PROBLEM = 300


class GrammarError(Exception):
    """A grammar that cannot be used; the text is for the client."""


class Matcher:
    """One completion's way through a grammar.

    Attributes:
        is_complete: nothing can follow any more; the completion is whole.
        failed: it took too much to find out how to go on.
    """

    def __init__(self, matcher: "LLMatcher", n_vocab: int, eog: Sequence[int]) -> None:
        """Begin where ``matcher`` is."""
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._eog = list(eog)
        self.is_complete = False
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


class Grammars:
    """Compiles grammars over the vocabulary of an engine.

    Which can be used is remembered of those that were used last. What one compiles to is kept only
    of the last, and for a few completions: all copies of a matcher share the states of its lexer,
    which would add up from one to the next, to hundreds of megabytes and at last to an error.
    """

    def __init__(self, engine: Engine) -> None:
        """Prepare nothing yet; see `prepare`."""
        self._engine = engine
        self._compiler: Compiler | None = None
        self._known: OrderedDict[Grammar, None] = OrderedDict()
        self._kept: tuple[Grammar, LLMatcher] | None = None
        self._newest: Matcher | None = None
        self._n_copies = 0

    def prepare(self) -> "Compiler":
        """Lay out the vocabulary for the compiler, unless that is done already.

        It takes tenths of a second and some 20 MB, so it is best done before a fork.
        """
        if self._compiler is None:
            # Imported here, since to load its library takes as long as an engine without a model.
            from worker.grammar_compiler import Compiler

            self._compiler = Compiler(self._engine)
        return self._compiler

    def matcher(self, grammar: Grammar, on_wait: Callable[[], None] = lambda: None) -> Matcher:
        """A way through ``grammar``, at its beginning.

        Args:
            grammar: which.
            on_wait: called now and then while it is being compiled.

        Raises:
            GrammarError: it is wrong, or takes too much to compile, or nothing matches it.
            EngineError: it cannot be compiled at present.
        """
        self.prepare()  # not in each trial
        if grammar not in self._known:
            try:
                problem = tried(lambda: self._problem(grammar), on_wait)
            except TrialFailed as error:
                raise GrammarError(str(error)) from error
            if problem:
                raise GrammarError(problem)
        self._known[grammar] = None
        self._known.move_to_end(grammar)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return self._copy_of(grammar)

    def _copy_of(self, grammar: Grammar) -> Matcher:
        has_failed = self._newest is not None and self._newest.failed
        is_worn = self._n_copies >= _MOST_COPIES or has_failed
        if self._kept is None or self._kept[0] != grammar or is_worn:
            self._kept, self._n_copies = (grammar, self.prepare().compiled(grammar)), 0
        self._newest = self._started(self._kept[1].deep_copy())
        self._n_copies += 1
        return self._newest

    def _started(self, matcher: "LLMatcher") -> Matcher:
        return Matcher(matcher, self._engine.info.n_vocab, sorted(self._engine.eog))

    def _problem(self, grammar: Grammar) -> str:
        """What is wrong with a grammar; empty if nothing."""
        try:
            self._started(self.prepare().compiled(grammar)).allowed()
        except GrammarError as error:
            return str(error) or "it cannot be used"
        except MemoryError:
            return "it takes more memory to compile than it may"
        return ""


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
