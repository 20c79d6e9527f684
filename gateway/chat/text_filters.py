"""The filters that make text: Jinja's, within bounds."""

import json
from collections.abc import Callable
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import SecurityError

from gateway.chat.context import BoundedContext
from gateway.chat.meter import CALL
from gateway.chat.operators import text_of

_MOST_INDENTATION = 100
# Jinja's own changes go word by word, and its JSON item by item, in Python.
_CHANGING = 10
_ENCODING = 3


@pass_context
def string(context: BoundedContext, value: Any) -> str:
    """The value as text."""
    return text_of(context, value)


@pass_context
def trim(context: BoundedContext, value: Any, chars: str | None = None) -> Any:
    """The text without spaces, or ``chars``, at its ends."""
    return context.text.call(text_of(context, value), "strip", chars)


@pass_context
def replace(
    context: BoundedContext, value: Any, old: Any, new: Any, count: int | None = None
) -> str:
    """The text with ``new`` in the place of ``old``."""
    text, before, after = (text_of(context, given) for given in (value, old, new))
    return context.text.replace(text, before, after, -1 if count is None else count)


@pass_context
def indent(
    context: BoundedContext,
    value: Any,
    width: int | str = 4,
    first: bool = False,
    blank: bool = False,
) -> str:
    """The text with its lines moved to the right."""
    text, margin = text_of(context, value), width if isinstance(width, str) else None
    if margin is None:
        if not isinstance(width, int) or width > _MOST_INDENTATION:
            raise SecurityError(f"indent({width!r}) is more than {_MOST_INDENTATION}")
        margin = " " * width
    lines: list[str] = context.text.call(text + "\n", "splitlines")
    context.meter.text(len(text) + len(margin) * len(lines))
    indented = [margin + line if line or blank else line for line in lines[1:]]
    head = margin + lines[0] if first else lines[0]
    return context.text.join("\n", [head, *indented])


@pass_context
def tojson(
    context: BoundedContext,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The value as JSON; unlike Jinja's own it escapes no HTML, which a prompt is not."""
    if indent is not None and not (isinstance(indent, int) and indent <= _MOST_INDENTATION):
        raise SecurityError(f"tojson(indent={indent!r}) is more than {_MOST_INDENTATION}")
    context.meter.spend(CALL)
    context.meter.go_through(value, times=_ENCODING)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and tuple(separators),
        sort_keys=sort_keys,
    )
    pieces, length = [], 0
    for piece in encoder.iterencode(context.plain(value)):
        length += len(piece)
        if length > context.meter.longest:
            break
        pieces.append(piece)
    context.meter.text(length)
    return "".join(pieces)


def case_filter(change: Callable[[str], str]) -> Callable[..., str]:
    """A filter that changes letters."""

    @pass_context
    def changed(context: BoundedContext, value: Any) -> str:
        text = text_of(context, value)
        context.meter.text(len(text))
        context.meter.spend(_CHANGING * len(text))
        return context.text.changed(text, change)

    return changed
