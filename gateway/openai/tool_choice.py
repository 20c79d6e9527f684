"""Which tools an answer may use, and what it is bound to be. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.errors import ApiError, excerpt
from gateway.openai.json_schema import prepared
from gateway.openai.requests import ChatRequest, GenerationRequest, ManyChatsRequest
from gateway.openai.structured import MOST_GRAMMAR_BYTES
from gateway.openai.tools import FunctionDefinition, Tool
from shared import tool_calls as written
from shared.errors import ErrorCode
from shared.grammar import JSON_OPTIONS, Grammar, GrammarKind

# More calls than these in one answer are a model that does not find its end.
_MOST_CALLS = 16
_NO_LETTER = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a chat may do with its tools.

    Attributes:
        tools: the functions that may be called; none if there are no tools, or not for this answer.
        mode: whether there has to be a call.
        is_parallel: whether there may be several.
    """

    tools: tuple[FunctionDefinition, ...] = ()
    mode: Literal["auto", "required"] = "auto"
    is_parallel: bool = True


@dataclass(frozen=True, slots=True)
class Bound:
    """What an answer is bound to be.

    Attributes:
        grammar: which a worker compiles; None for any text.
        param: the field of the request that asks for it.
    """

    grammar: Grammar | None = None
    param: str = ""


UNBOUND = Bound()
"""To any text."""


def tool_use(request: ChatRequest | ManyChatsRequest) -> ToolUse:
    """Which tools ``request`` lets the model use.

    Raises:
        ApiError: it chooses tools that it does not have.
    """
    tools, choice = request.tools or [], request.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            message = "'tool_choice' chooses a tool, but 'tools' has none."
            raise ApiError(ErrorCode.INVALID_VALUE, message, "tool_choice")
        return ToolUse()
    names = [tool.function.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            message = f"'tools[{place}].function.name' is the second that is called '{name}'."
            raise ApiError(ErrorCode.INVALID_VALUE, message, f"tools[{place}].function.name")
    is_parallel = request.parallel_tool_calls is not False
    match choice:
        case "none":
            return ToolUse()
        case None | "auto":
            return ToolUse(tuple(tool.function for tool in tools), "auto", is_parallel)
        case "required":
            return ToolUse(tuple(tool.function for tool in tools), "required", is_parallel)
    if choice.function is not None and choice.type == "function":
        return ToolUse(_chosen(tools, [choice.function.name]), "required", False)
    assert choice.allowed_tools is not None, "it was checked"
    allowed = choice.allowed_tools
    chosen = _chosen(tools, [tool.function.name for tool in allowed.tools])
    return ToolUse(chosen, allowed.mode, is_parallel)


def _chosen(tools: Sequence[Tool], names: Sequence[str]) -> tuple[FunctionDefinition, ...]:
    known = {tool.function.name: tool.function for tool in tools}
    for name in names:
        if name not in known:
            message = (
                f"'tool_choice' names the function '{excerpt(name)}', but 'tools' has only"
                f" {excerpt(', '.join(known))}."
            )
            raise ApiError(ErrorCode.INVALID_VALUE, message, "tool_choice")
    return tuple(known[name] for name in dict.fromkeys(names))


def bound_of(request: GenerationRequest, use: ToolUse = ToolUse()) -> Bound:
    """What the answer to ``request`` is bound to be.

    Raises:
        ApiError: it asks for several things at once, for too much, or for what contradicts it.
    """
    asked = _asked(request)
    if len(asked) > 1:
        names = " and ".join(f"'{param}'" for param in asked)
        message = f"{names} exclude each other: an answer can be bound to one of them only."
        raise ApiError(ErrorCode.INVALID_VALUE, message, list(asked)[1])
    param, grammar = next(iter(asked.items()), ("", None))
    if use.tools:
        if grammar is not None and param.startswith("guided_"):
            message = f"'{param}' and 'tools' exclude each other."
            raise ApiError(ErrorCode.INVALID_VALUE, message, param)
        answer = None if grammar is None else grammar.source
        grammar, param = Grammar(GrammarKind.LARK.value, _calls(use, answer)), "tools"
    if grammar is None:
        return Bound()
    _check(request, grammar, param)
    return Bound(grammar, param)


def _asked(request: GenerationRequest) -> dict[str, Grammar]:
    asked: dict[str, Grammar] = {}
    if request.response_format is not None:
        schema = request.response_format.bound_to
        if schema is not None:
            asked["response_format"] = _json_grammar(schema)
    if request.guided_json is not None:
        asked["guided_json"] = _json_grammar(request.guided_json)
    if request.guided_regex is not None:
        asked["guided_regex"] = Grammar(GrammarKind.REGEX.value, request.guided_regex)
    if request.guided_choice is not None:
        asked["guided_choice"] = Grammar(GrammarKind.CHOICE.value, _json(request.guided_choice))
    if request.guided_grammar is not None:
        asked["guided_grammar"] = Grammar(GrammarKind.LARK.value, request.guided_grammar)
    return asked


def _json_grammar(schema: dict[str, Any]) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA.value, _json(prepared(schema)))


def _check(request: GenerationRequest, grammar: Grammar, param: str) -> None:
    n_bytes = len(grammar.source.encode())
    if n_bytes > MOST_GRAMMAR_BYTES:
        message = f"'{param}' has {n_bytes} bytes; at most {MOST_GRAMMAR_BYTES} are compiled."
        raise ApiError(ErrorCode.INVALID_VALUE, message, param)
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request, name):
            message = f"'{name}' and '{param}' exclude each other: the latter says where to end."
            raise ApiError(ErrorCode.INVALID_VALUE, message, name)


def _calls(use: ToolUse, answer: str | None) -> str:
    """The grammar of an answer that may call tools, in Lark.

    Args:
        use: the tools.
        answer: a schema of what else it may be; None for any text, which may also come before the
            first call.
    """
    rules = []
    more = f'("\\n" {_quoted(written.OPEN)} call){{0,{_MOST_CALLS - 1}}}' if use.is_parallel else ""
    if use.mode == "required":
        rules.append(f"start: {_quoted(written.OPEN)} call {more}")
    elif answer is not None:
        rules.append(f"start: answer | {_quoted(written.OPEN)} call {more}")
        rules.append(f"answer: %json {_schema(orjson.loads(answer))}")
    else:
        # A lazy lexeme: as soon as a call begins, it goes on as one.
        rules.append(f"start: TEXT | lead call {more}")
        rules.append(f"lead[lazy]: TEXT {_quoted(written.OPEN)}")
        rules.append(r"TEXT: /(.|\n)*/")
    calls = [f"call_{place}" for place in range(len(use.tools))]
    rules.append("call: " + " | ".join(calls))
    begin = written.CALL_BEGIN.removeprefix(written.OPEN)
    for place, function in enumerate(use.tools):
        head = f"{begin}{_json(function.name)}{written.CALL_ARGUMENTS}"
        # What is wrong with it will be said of a rule of this name.
        arguments = f"arguments_{place}_of_{_NO_LETTER.sub('_', function.name.lower())}"
        rules.append(f"{calls[place]}: {_quoted(head)} {arguments} {_quoted(written.CALL_END)}")
        schema = _schema(function.arguments, is_strict=function.is_strict)
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
