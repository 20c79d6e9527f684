"""Grammars that bind completions, by llguidance: which tokens may come next."""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from shared.grammar import JSON_OPTIONS, Grammar, GrammarKind
from worker.engines.base import Engine
from worker.grammar_trial import TrialFailed, tried

_MOST_KNOWN = 64
# Of one compiled grammar, one after another.
_MOST_COPIES = 8
_LIMITS = LLParserLimits(verbose_errors=False)
# A token whose bytes begin with it is one that no text has, to llguidance.
_CONTROL = b"\xff"
# The lines of a grammar around a mistake, numbered, and the mark below its place.
_LISTING = re.compile(r"^ *(\d+ \|.*|\^)$\n?", re.MULTILINE)
_LONGEST_PROBLEM = 300


class GrammarError(Exception):
    """A grammar that cannot be used; the text is for the client."""


class Matcher:
    """One completion's way through a grammar.

    Attributes:
        is_complete: nothing can follow any more; the completion is whole.
        failed: it took too much to find out how to go on.
    """

    def __init__(self, matcher: LLMatcher, n_vocab: int, eog: Sequence[int]) -> None:
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
            raise GrammarError(_problem(matcher.get_error()))
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
            raise GrammarError(_problem(self._matcher.get_error()))
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
        self._tokens: LLTokenizer | None = None
        self._known: OrderedDict[Grammar, None] = OrderedDict()
        self._kept: tuple[Grammar, LLMatcher] | None = None
        self._newest: Matcher | None = None
        self._n_copies = 0

    def prepare(self) -> LLTokenizer:
        """Lay out the vocabulary as a tree, unless that is done already.

        It takes tenths of a second and some 20 MB, so it is best done before a fork.
        """
        if self._tokens is None:
            self._tokens = _Tokens(self._engine).as_tree()
        return self._tokens

    def matcher(self, grammar: Grammar, on_wait: Callable[[], None] = lambda: None) -> Matcher:
        """A way through ``grammar``, at its beginning.

        Args:
            grammar: which.
            on_wait: called now and then while it is being compiled.

        Raises:
            GrammarError: it is wrong, or takes too much to compile, or nothing matches it.
            EngineError: it cannot be compiled at present.
        """
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
            self._kept, self._n_copies = (grammar, self._compiled(grammar)), 0
        self._newest = self._started(self._kept[1].deep_copy())
        self._n_copies += 1
        return self._newest

    def _compiled(self, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self.prepare(), _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_problem(matcher.get_error()))
        return matcher

    def _started(self, matcher: LLMatcher) -> Matcher:
        return Matcher(matcher, self._engine.info.n_vocab, sorted(self._engine.eog))

    def _problem(self, grammar: Grammar) -> str:
        """What is wrong with a grammar; empty if nothing."""
        try:
            self._started(self._compiled(grammar)).allowed()
        except GrammarError as error:
            return str(error) or "it cannot be used"
        except MemoryError:
            return "it takes more memory to compile than it may"
        return ""


class _Tokens(TokenizerWrapper):
    """The vocabulary as llguidance takes it: attributes by name, and a call that tokenizes."""

    def __init__(self, engine: Engine) -> None:
        # Not that of its base, which looks for all this in another object.
        self.is_tokenizer_wrapper = True
        self._engine = engine
        self.bos_token_id = None
        self.tokens = [_bytes_of(engine, token) for token in range(engine.info.n_vocab)]
        self.special_token_ids = [i for i, raw in enumerate(self.tokens) if raw[:1] == _CONTROL]
        self.eos_token_id = min(engine.eog, default=len(self.tokens))
        if not engine.eog:
            self.tokens.append(_CONTROL + b"end")  # one that there is not, since it must have one
        self._tree: LLTokenizer | None = None

    def as_tree(self) -> LLTokenizer:
        """The tree that masks are read from."""
        ends: list[int] = sorted(self._engine.eog) or [self.eos_token_id]
        self._tree = LLTokenizer(self, eos_token=ends)
        return self._tree

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of text that a grammar leaves no choice about.

        As the model would have it where that spells the very bytes; some tokenizers put a space in
        front. Else the longest tokens from the left.
        """
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        ids = self._engine.tokenize((text,), begins=False)
        if b"".join([self.tokens[token] for token in ids]) == text.encode():
            return ids
        return [] if self._tree is None else self._tree.greedy_tokenize(text)


def _bytes_of(engine: Engine, token: int) -> bytes:
    return engine.token_bytes(token) or _CONTROL + engine.token_name(token).encode()


def _source(grammar: Grammar) -> str:
    """The grammar as llguidance takes it.

    Raises:
        GrammarError: it is not even of its kind.
    """
    source = grammar.source
    try:
        match GrammarKind(grammar.kind):
            case GrammarKind.JSON_SCHEMA:
                schema = orjson.loads(source)
                if not isinstance(schema, dict):
                    raise GrammarError("a schema must be an object")
                schema["x-guidance"] = JSON_OPTIONS
                return LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode())
            case GrammarKind.REGEX:
                return LLMatcher.grammar_from_regex(source)
            case GrammarKind.CHOICE:
                choices = " | ".join(orjson.dumps(each).decode() for each in orjson.loads(source))
                # The one character that JSON may hold as it is, and Lark may not.
                return LLMatcher.grammar_from_lark(f"start: {choices}".replace("\x7f", "\\u007f"))
            case GrammarKind.LARK:
                return LLMatcher.grammar_from_lark(any_to_lark(source))
    except GrammarError:
        raise
    except Exception as error:  # the converters raise what they like
        raise GrammarError(_problem(str(error))) from error


def _problem(text: str) -> str:
    """What llguidance says, in one line, and without the grammar: that may not be the client's."""
    text = _LISTING.sub("", text).replace("<non-verbose/>", "")
    text = text.replace("NoExtensionBias", "nothing matches it")
    return " ".join(text.split())[:_LONGEST_PROBLEM]
