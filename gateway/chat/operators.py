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
# Python takes whole numbers modulo 2 ** 61 - 1 to hash them.
_LARGEST_KEY = 60


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
    if isinstance(left, str) and isinstance(right, str) and name in ("in", "notin"):
        context.meter.search(right, left)
    if name == "eq" and left == right:
        return True
    return bool(_COMPARISONS[name](context.plain(left), context.plain(right)))


@pass_context
def given(context: BoundedContext, value: Any) -> Any:
    """What a filter or a test is given, besides its subject; they may print, copy or hash it."""
    context.meter.go_through(value)
    return value


@pass_context
def as_key(context: BoundedContext, key: Any) -> Any:
    """The key of a dictionary."""
    check_key(key)
    context.meter.go_through(key)
    return context.plain(key)


def check_key(key: Any) -> None:
    """Refuse a key that takes long to hash, or whose hash can be chosen to be that of others.

    Raises:
        SecurityError: it does.
    """
    if isinstance(key, int) and key.bit_length() > _LARGEST_KEY:
        raise SecurityError("so large a number is no key here")
    if not isinstance(key, str | int | float | None | Undefined):
        raise SecurityError(f"a {type(key).__name__} is no key here")


@pass_context
def concatenate(context: BoundedContext, first: Any, *others: Any) -> str:
    """``first ~ other ~ ...``."""
    return context.text.join("", [text_of(context, value) for value in (first, *others)])


@pass_context
def part(context: BoundedContext, value: Any, *bounds: Any) -> Any:
    """``value[start:stop:step]``."""
    if isinstance(value, str):
        context.meter.spend(CALL + len(value))
    elif isinstance(value, list | tuple):
        context.meter.spend(CALL + NODE * len(value))
    elif not isinstance(value, range | Undefined):
        raise TypeError(f"a {type(value).__name__} has no parts")
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
