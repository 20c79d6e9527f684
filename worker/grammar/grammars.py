"""Grammars over the vocabulary of an engine."""

from typing import TYPE_CHECKING

from shared.grammar import Grammar
from worker.engines.base import Engine
from worker.grammar.matcher import GrammarError, Matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from worker.grammar.compiler import Compiler

# Of one compiled grammar, one after another.
_MOST_COPIES = 8


class Grammars:
    """Compiles grammars; a preparer has tried them, so that none takes long.

    What one compiles to is kept only of the last, and for a few completions: all copies of a
    matcher share the states of its lexer, which would add up from one to the next, to hundreds of
    megabytes and at last to an error.
    """

    def __init__(self, engine: Engine) -> None:
        """Prepare nothing yet; see `prepare`."""
        self._engine = engine
        self._compiler: Compiler | None = None
        self._kept: tuple[Grammar, LLMatcher] | None = None
        self._newest: Matcher | None = None
        self._n_copies = 0

    def prepare(self) -> "Compiler":
        """Lay out the vocabulary for the compiler, unless that is done already.

        It takes tenths of a second and some 20 MB, so it is best done before a fork.
        """
        if self._compiler is None:
            # Imported here, since to load its library takes as long as an engine without a model.
            from worker.grammar.compiler import Compiler

            self._compiler = Compiler(self._engine)
        return self._compiler

    def matcher(self, grammar: Grammar) -> Matcher:
        """A way through ``grammar``, at its beginning.

        Raises:
            GrammarError: it is wrong.
        """
        has_failed = self._newest is not None and self._newest.failed
        is_worn = self._n_copies >= _MOST_COPIES or has_failed
        if self._kept is None or self._kept[0] != grammar or is_worn:
            self._kept, self._n_copies = (grammar, self.prepare().compiled(grammar)), 0
        self._newest = self._started(self._kept[1].deep_copy())
        self._n_copies += 1
        return self._newest

    def problem(self, grammar: Grammar) -> str:
        """What is wrong with a grammar, empty if nothing; may take any time, memory or a crash."""
        try:
            self._started(self.prepare().compiled(grammar)).allowed()
        except GrammarError as error:
            return str(error) or "it cannot be used"
        except MemoryError:
            return "it takes more memory to compile than it may"
        return ""

    def _started(self, matcher: "LLMatcher") -> Matcher:
        return Matcher(matcher, self._engine.info.n_vocab, sorted(self._engine.eog))
