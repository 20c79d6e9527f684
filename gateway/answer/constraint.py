"""What an answer is held to: a grammar, out of what its request wants and of its tools. Pure."""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.answer.json_schema import check_schema, prepared
from gateway.ask import Ask, ToolUse, WantedForm
from gateway.errors import ApiError, refused
from shared import tool_calls as written
from shared.errors import ErrorCode
from shared.grammar import JSON_OPTIONS, Grammar, GrammarKind

MOST_GRAMMAR_BYTES = 256 << 10
"""The longest schema, expression or grammar that is compiled."""

# More calls than these in one answer are a model that does not find its end.
_MOST_CALLS = 16
_NO_LETTER = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer is held to."""

    grammar: Grammar | None = None  #: which a worker compiles; None for any text
    param: str = ""  #: the field of the request that asks for it


def constraint_of(ask: Ask) -> Constraint:
    """What the answer to ``ask`` is held to.

    Raises:
        ApiError: it asks for several things at once, for too much, or for what contradicts it.
    """
    if len(ask.constraints) > 1:
        names = " and ".join(f"'{each.param}'" for each in ask.constraints)
        message = f"{names} exclude each other: an answer can be bound to one of them only."
        raise ApiError(ErrorCode.INVALID_VALUE, message, ask.constraints[1].param)
    wanted = next(iter(ask.constraints), None)
    if wanted is not None and wanted.kind is GrammarKind.JSON_SCHEMA:
        check_schema(wanted.source, wanted.path or wanted.param)
    if not ask.tools.functions:
        if wanted is None:
            return Constraint()
        constraint = Constraint(_grammar(wanted), wanted.param)
    else:
        constraint = Constraint(_with_tools(ask.tools, wanted), "tools")
    _check(ask, constraint)
    return constraint


def _grammar(wanted: WantedForm) -> Grammar:
    match wanted.kind:
        case GrammarKind.JSON_SCHEMA:
            source = _json(prepared(wanted.source))
        case GrammarKind.CHOICE:
            source = _json(wanted.source)
        case _:
            source = wanted.source
    return Grammar(wanted.kind.value, source)


def _with_tools(use: ToolUse, wanted: WantedForm | None) -> Grammar:
    if wanted is not None and wanted.param.startswith("guided_"):
        raise refused(wanted.param, "and 'tools' exclude each other")
    for function in use.functions:
        check_schema(function.schema, function.param, is_strict=function.is_strict)
    return Grammar(GrammarKind.LARK.value, _calls(use, None if wanted is None else wanted.source))


def _check(ask: Ask, constraint: Constraint) -> None:
    assert constraint.grammar is not None
    param, n_bytes = constraint.param, len(constraint.grammar.source.encode())
    if n_bytes > MOST_GRAMMAR_BYTES:
        raise refused(param, f"has {n_bytes} bytes; at most {MOST_GRAMMAR_BYTES} are compiled")
    for name, is_there in (("ignore_eos", ask.ignores_eog), ("min_tokens", ask.min_tokens)):
        if is_there:
            sentence = f"and '{param}' exclude each other: the latter says where to end"
            raise refused(name, sentence)


def _calls(use: ToolUse, answer: dict[str, Any] | None) -> str:
    """The grammar of an answer that may call tools, in Lark.

    Args:
        use: the tools.
        answer: a schema of what else it may be; None for any text, which may also come before the
            first call.
    """
    rules = []
    more = f'("\\n" {_quoted(written.OPEN)} call){{0,{_MOST_CALLS - 1}}}' if use.is_parallel else ""
    if use.is_required:
        rules.append(f"start: {_quoted(written.OPEN)} call {more}")
    elif answer is not None:
        rules.append(f"start: answer | {_quoted(written.OPEN)} call {more}")
        rules.append(f"answer: %json {_schema(answer)}")
    else:
        # A lazy lexeme: as soon as a call begins, it goes on as one.
        rules.append(f"start: TEXT | lead call {more}")
        rules.append(f"lead[lazy]: TEXT {_quoted(written.OPEN)}")
        rules.append(r"TEXT: /(.|\n)*/")
    calls = [f"call_{place}" for place in range(len(use.functions))]
    rules.append("call: " + " | ".join(calls))
    begin = written.CALL_BEGIN.removeprefix(written.OPEN)
    for place, function in enumerate(use.functions):
        head = f"{begin}{_json(function.name)}{written.CALL_ARGUMENTS}"
        # What is wrong with it will be said of a rule of this name.
        arguments = f"arguments_{place}_of_{_NO_LETTER.sub('_', function.name.lower())}"
        rules.append(f"{calls[place]}: {_quoted(head)} {arguments} {_quoted(written.CALL_END)}")
        schema = _schema(function.schema, is_strict=function.is_strict)
        rules.append(f"{arguments}: %json {schema}")
    return "%llguidance {}\n" + "\n".join(rules) + "\n"


def _schema(schema: dict[str, Any], *, is_strict: bool = True) -> str:
    options = {**JSON_OPTIONS, "lenient": not is_strict}
    return _json({**prepared(schema), "x-guidance": options})


def _quoted(text: str) -> str:
    """A text as a literal of Lark, whose escapes are those of JSON."""
    return _json(text)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
