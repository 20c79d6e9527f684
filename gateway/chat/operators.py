"""What the syntax of a template was turned into, so that each step of it is counted."""

import operator
from collections.abc import Callable
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.exceptions import SecurityError

from gateway.chat.context import BoundedContext
from gateway.chat.meter import CALL, NODE

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, holder: item in holder,
    "notin": lambda item, holder: item not in holder,
}


@pass_context
def spend(context: BoundedContext, work: int) -> None:
    """Pay for what follows; put at the head of every loop and macro."""
    context.meter.spend(work)


@pass_context
def compare(context: BoundedContext, value: Any, *others: Any) -> bool:
    """``value operator other``, in a chain: operators and operands by turns."""
    context.meter.spend(CALL)
    for name, other in zip(others[::2], others[1::2], strict=True):
        if not holds(context, name, value, other):
            return False
        value = other
    return True


def holds(context: BoundedContext, name: str, left: Any, right: Any) -> bool:
    """Whether a comparison holds; what a template wrote equals the same text of a client."""
    context.meter.go_through(left)
    context.meter.go_through(right)
    if name == "eq" and left == right:
        return True
    return bool(_COMPARISONS[name](context.plain(left), context.plain(right)))


@pass_context
def as_key(context: BoundedContext, key: Any) -> Any:
    """The key of a dictionary."""
    if isinstance(key, tuple):
        raise SecurityError("a tuple is no key here")
    return context.plain(key)


@pass_context
def concatenate(context: BoundedContext, first: Any, *others: Any) -> str:
    """``first ~ other ~ ...``."""
    return context.text.join("", [text_of(context, value) for value in (first, *others)])


@pass_context
def part(context: BoundedContext, value: Any, *bounds: Any) -> Any:
    """``value[start:stop:step]``."""
    context.meter.spend(CALL + (len(value) if isinstance(value, str | list | tuple) else 0))
    return value[slice(*bounds)]


@pass_context
def iterated(context: BoundedContext, value: Any, work: int) -> Any:
    """What a loop goes through, with ``work`` for each item on the way."""
    if not isinstance(value, Undefined):
        context.meter.spend(work * len(value))
    return value


def text_of(context: BoundedContext, value: Any) -> str:
    """A value as it is printed."""
    if isinstance(value, str):
        return value
    context.meter.spend(CALL)
    context.meter.go_through(value)
    text = str(context.plain(value))
    context.meter.text(len(text))
    return text


@pass_context
def printed(context: BoundedContext, value: Any) -> str:
    """What is written to the prompt, or to a text that a template keeps."""
    text = text_of(context, value)
    context.meter.spend(NODE + len(text))
    return text
