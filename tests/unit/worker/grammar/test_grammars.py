"""Which tokens a grammar lets through, over the bytes of the echo engine."""

import json
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.config import WorkerConfig
from shared.grammar import Grammar, GrammarKind
from worker.engines.echo import EchoEngine
from worker.grammar.grammars import Grammars
from worker.grammar.matcher import GrammarError

END = 256
ENGINE = EchoEngine(WorkerConfig("echo"))


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(ENGINE)


def schema(value: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA.value, json.dumps(value))


def outcome(grammars: Grammars, grammar: Grammar, text: str) -> str:
    """What becomes of a text: ``complete``, ``may end``, ``unfinished``, or how far it gets."""
    matcher = grammars.matcher(grammar)
    for place, byte in enumerate(text.encode()):
        if matcher.is_complete:
            return f"complete at {place}"
        if not matcher.allowed()[byte]:
            return f"refused at {place}"
        matcher.accept(byte)
    if matcher.is_complete:
        return "complete"
    return "may end" if matcher.allowed()[END] else "unfinished"


OBJECT = schema(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('{"a":1}', "complete"),
        ('{"a": 1, "b": "x"}', "complete"),
        ('{\n  "a": 1\n}', "complete"),
        ('{"a": 1', "unfinished"),
        ('{"a":  1', "refused at 6"),  # one space at most
        ("{" + "\n" + " " * 24 + '"a": 1}', "complete"),
        ("{" + "\n" + " " * 25, "refused at 26"),
        ('{"b": "x"}', "refused at 2"),
        ('{"a": 1.5}', "refused at 7"),
        ('{"a": 1, "b": "\\u0041"}', "refused at 16"),
        ('{"a": 1, "b": "\\n\\"ü😀"}', "complete"),
        ('{"a": 1}}', "complete at 8"),
        (' {"a": 1}', "refused at 0"),
    ],
)
def test_a_schema(grammars: Grammars, text: str, becomes: str) -> None:
    assert outcome(grammars, OBJECT, text) == becomes


def test_a_schema_of_other_languages(grammars: Grammars) -> None:
    names = schema({"type": "object", "properties": {"größe": {"enum": ["日本", "klein"]}}})
    assert outcome(grammars, names, '{"größe": "日本"}') == "complete"
    assert outcome(grammars, names, '{"größe": "日x') == "refused at 16"


def test_a_regular_expression(grammars: Grammars) -> None:
    grammar = Grammar(GrammarKind.REGEX.value, r"[a-c]{2}-\d+")
    assert outcome(grammars, grammar, "ab-1") == "may end"
    assert outcome(grammars, grammar, "ab-") == "unfinished"
    assert outcome(grammars, grammar, "ad") == "refused at 1"


CHOICES = ["yes", "yesterday", 'a "quoted"', "line\nbreak", "back\\slash", "ü", ""]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice(grammars: Grammars, choice: str) -> None:
    grammar = Grammar(GrammarKind.CHOICE.value, json.dumps(CHOICES))
    assert outcome(grammars, grammar, choice) in ("complete", "may end")
    assert outcome(grammars, grammar, choice + "!").startswith(("refused", "complete at"))


@pytest.mark.parametrize(
    "source",
    ['start: greeting " " NAME\ngreeting: "hi" | "hello"\nNAME: /[A-Z][a-z]+/',
     'root ::= ("hi" | "hello") " " [A-Z] [a-z]+'],
    ids=["Lark", "GBNF"],
)  # fmt: skip
def test_a_grammar(grammars: Grammars, source: str) -> None:
    grammar = Grammar(GrammarKind.LARK.value, source)
    assert outcome(grammars, grammar, "hello Ann") == "may end"
    assert outcome(grammars, grammar, "hello ann") == "refused at 6"
    assert outcome(grammars, grammar, "he") == "unfinished"


DEEP: Any = {}
for _ in range(60):
    DEEP = {"properties": {"a": DEEP}, "type": "object"}


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (schema({"not": {}}), "not"),
        (schema({"type": "strin"}), "strin"),
        (schema({"type": "string", "format": "poem"}), "poem"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"if": {}, "then": {}}), "if"),
        (schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (schema({"$ref": "http://localhost/x"}), "localhost"),
        (schema({"$ref": "#/$defs/none"}), "none"),
        (schema({"$ref": "#"}), "nothing matches it"),
        (schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                 "$ref": "#/$defs/a"}), "nothing matches it"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look"),
        (schema([]), "object"),
        (Grammar(GrammarKind.JSON_SCHEMA.value, "{"), "unexpected end"),
        (Grammar(GrammarKind.REGEX.value, "(a"), "unclosed group"),
        (Grammar(GrammarKind.REGEX.value, r"(a)\1"), "backreferences"),
        (Grammar(GrammarKind.LARK.value, "start: nothing"), "nothing"),
        (Grammar(GrammarKind.LARK.value, "once upon a time"), "Expected ::="),
        (Grammar(GrammarKind.LARK.value, "start: " + "(" * 5000 + '"a"' + ")" * 5000), "nested"),
        (Grammar("poem", "x"), "poem"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.source[:40],
)  # fmt: skip
def test_what_cannot_be_used_says_why(grammars: Grammars, grammar: Grammar, reason: str) -> None:
    message = grammars.problem(grammar)
    assert reason in message
    assert len(message) <= 300 and "\n" not in message


def test_the_grammar_itself_is_not_quoted(grammars: Grammars) -> None:
    source = 'start: a\na: %json {"type": "object", "not": {}}\nb: "secret"'
    with pytest.raises(GrammarError) as caught:
        grammars.matcher(Grammar(GrammarKind.LARK.value, source))
    message = 'at 2(4), in a: failed to compile JSON schema: Unimplemented keys: ["not"]'
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "grammar",
    [
        schema(DEEP),
        schema({"enum": [f"value {i}" for i in range(5000)]}),
        schema({"type": "array", "items": {"type": "integer"}, "maxItems": 100_000}),
        Grammar(GrammarKind.LARK.value, 'start: a\na: a a | "x" | '),
        Grammar(GrammarKind.REGEX.value, "(a|a)*(a|b)*c"),
    ],
    ids=["deep", "enum", "items", "ambiguous", "exponential elsewhere"],
)
def test_what_only_looks_hostile_is_taken(grammars: Grammars, grammar: Grammar) -> None:
    assert grammars.matcher(grammar).allowed().any()


def test_what_one_completion_took_is_not_counted_against_the_next(grammars: Grammars) -> None:
    grammar = Grammar(GrammarKind.REGEX.value, r"((\w+\s?){1,1000}\w*){1,1000}")
    with pytest.raises(GrammarError, match="too many expressions"):
        outcome(grammars, grammar, "a" * 100)
    assert outcome(grammars, grammar, "a") == "may end"


def test_a_vocabulary_without_an_end() -> None:
    engine = EchoEngine(WorkerConfig("echo"))
    engine.eog = frozenset()
    assert outcome(Grammars(engine), OBJECT, '{"a": 1}') == "complete"


class LongTokens(EchoEngine):
    """The echo engine with a few tokens of several bytes, in the place of control characters."""

    TEXTS: ClassVar = {1: b'{"', 2: b'": ', 3: b'"}', 4: b"\xc3", 5: b"\xbc", 6: b""}

    def token_bytes(self, token: int) -> bytes:
        return self.TEXTS.get(token, super().token_bytes(token))


def test_tokens_of_several_bytes_and_halves_of_letters() -> None:
    grammars = Grammars(LongTokens(WorkerConfig("echo")))
    matcher = grammars.matcher(schema({"type": "object", "properties": {"k": {"type": "string"}}}))
    for token in (1, ord("k"), 2, ord('"'), 4, 5, 3):
        allowed = matcher.allowed()
        assert allowed[token], token
        assert not allowed[6]  # a control token
        if token == 5:  # the other half of a letter and nothing else
            assert not allowed[ord("x")] and not allowed[3]
        matcher.accept(token)
    assert matcher.is_complete


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
        min_size=1,
        max_size=5,
    )
)
@example(["\x7f", "\x01\x1f", '"i', "\\u0041", "//", "%json {}"])
def test_any_text_may_be_a_choice(grammars: Grammars, choices: list[str]) -> None:
    grammar = Grammar(GrammarKind.CHOICE.value, json.dumps(choices))
    for choice in choices:
        assert outcome(grammars, grammar, choice) in ("complete", "may end")


def test_a_compiled_grammar_is_used_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(EchoEngine(WorkerConfig("echo")))
    compiled: list[Grammar] = []

    compiler = grammars.prepare()
    compile_one = compiler.compiled

    def counting(grammar: Grammar) -> Any:
        compiled.append(grammar)
        return compile_one(grammar)

    monkeypatch.setattr(compiler, "compiled", counting)
    one, other = (Grammar(GrammarKind.REGEX.value, text) for text in ("one", "other"))
    for _ in range(8):
        assert outcome(grammars, one, "one") == "complete"
    assert compiled == [one]
    assert outcome(grammars, one, "one") == "complete"
    assert compiled == [one, one], "what the others have left behind would add up"
    assert outcome(grammars, other, "other") == "complete"
    assert outcome(grammars, one, "one") == "complete"
    assert compiled == [one, one, other, one]


def test_a_regex_that_explodes_is_an_error_and_no_stall_and_is_compiled_anew(
    grammars: Grammars,
) -> None:
    grammar = Grammar(GrammarKind.REGEX.value, r"((\w+\s?){1,1000}\w*){1,1000}")
    for _ in range(2):
        matcher = grammars.matcher(grammar)
        assert matcher.allowed().any()
        with pytest.raises(GrammarError):
            for _ in range(1000):
                matcher.allowed()
                matcher.accept(ord("a"))
        assert matcher.failed
