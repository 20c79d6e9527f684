"""Compiles grammars with llguidance, over the vocabulary of an engine."""

import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from shared.grammar import JSON_OPTIONS, Grammar, GrammarKind
from worker.engines.base import Engine
from worker.grammar.matcher import GrammarError, problem_of

_LIMITS = LLParserLimits(verbose_errors=False)
# A token whose bytes begin with it is one that no text has, to llguidance.
_CONTROL = b"\xff"


class Compiler:
    """The vocabulary as a tree, which masks are read from."""

    def __init__(self, engine: Engine) -> None:
        """Lay it out; that takes tenths of a second and some 20 MB."""
        self._tree = _Tokens(engine).as_tree()

    def compiled(self, grammar: Grammar) -> LLMatcher:
        """A matcher at the beginning of ``grammar``.

        Raises:
            GrammarError: it cannot be used.
        """
        matcher = LLMatcher(self._tree, _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(problem_of(matcher.get_error()))
        return matcher


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
        raise GrammarError(problem_of(str(error))) from error
