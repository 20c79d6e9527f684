"""Grammars that bind completions, by llguidance: which tokens may come next."""

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

_MOST_KEPT = 32
_LIMITS = LLParserLimits(verbose_errors=False)
# A token whose bytes begin with it is one that no text has, to llguidance.
_CONTROL = b"\xff"
_NO_NAME = "no token is allowed next"


class GrammarError(Exception):
    """A grammar that cannot be used; the text is for the client."""


class Matcher:
    """One completion's way through a grammar.

    Attributes:
        is_complete: nothing can follow any more; the completion is whole.
    """

    def __init__(self, matcher: LLMatcher, n_vocab: int, eog: Sequence[int]) -> None:
        """Begin where ``matcher`` is."""
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._eog = list(eog)
        self.is_complete = False

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape ``(n_vocab,)``.

        Those that end the generation are among them where the completion may end.

        Raises:
            GrammarError: that takes too much to find out, or there is none.
        """
        matcher = self._matcher
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            raise GrammarError(_problem(matcher.get_error()))
        unpacked = np.unpackbits(bits, count=self._n_vocab, bitorder="little")
        mask: NDArray[np.bool_] = unpacked.view(np.bool_)
        if self._eog:
            mask[self._eog] = matcher.is_accepting()
        if not mask.any():
            raise GrammarError(_NO_NAME)
        return mask

    def accept(self, token: int) -> None:
        """Take the token that has been drawn, one of those that were allowed.

        Raises:
            GrammarError: it was not, or what follows takes too much to find out.
        """
        if not self._matcher.consume_token(token):
            raise GrammarError(_problem(self._matcher.get_error()))
        self.is_complete = self._matcher.is_stopped()


class Grammars:
    """Compiles grammars over the vocabulary of an engine, and keeps those that were used last."""

    def __init__(self, engine: Engine) -> None:
        """Prepare nothing yet; see `prepare`."""
        self._engine = engine
        self._tokens: LLTokenizer | None = None
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()

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
        kept = self._kept.get(grammar)
        if kept is None:
            try:
                problem = tried(lambda: self._problem(grammar), on_wait)
            except TrialFailed as error:
                raise GrammarError(str(error)) from error
            if problem:
                raise GrammarError(problem)
            kept = self._kept[grammar] = self._compiled(grammar)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(grammar)
        return self._started(kept)

    def _started(self, compiled: LLMatcher) -> Matcher:
        return Matcher(compiled.deep_copy(), self._engine.info.n_vocab, sorted(self._engine.eog))

    def _compiled(self, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self.prepare(), _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_problem(matcher.get_error()))
        return matcher

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
                return LLMatcher.grammar_from_lark(f"start: {choices}")
            case GrammarKind.LARK:
                return LLMatcher.grammar_from_lark(any_to_lark(source))
    except GrammarError:
        raise
    except Exception as error:  # the converters raise what they like
        raise GrammarError(_problem(str(error))) from error


def _problem(text: str) -> str:
    """The first lines of what llguidance says, as one."""
    text = text.replace("<non-verbose/>", "").replace("NoExtensionBias", "nothing matches it")
    return " ".join(text.split())[:300]
