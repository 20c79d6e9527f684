"""The tests (``x is ...``) that templates may use: Jinja's, within bounds."""

from collections.abc import Callable
from typing import Any

from jinja2 import pass_context, tests

from gateway.chat.context import BoundedContext
from gateway.chat.operators import holds

_COMPARISONS = {
    "eq": ("==", "eq", "equalto"),
    "ne": ("!=", "ne"),
    "gt": (">", "gt", "greaterthan"),
    "gteq": (">=", "ge"),
    "lt": ("<", "lt", "lessthan"),
    "lteq": ("<=", "le"),
    "in": ("in",),
}
_LOOKING_AT_THE_TYPE = (
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none",
    "number", "sameas", "sequence", "string", "true", "undefined",
)  # fmt: skip
_JINJAS: dict[str, Any] = tests.TESTS


def _compared(name: str) -> Callable[..., bool]:
    @pass_context
    def compared(context: BoundedContext, value: Any, other: Any) -> bool:
        return holds(context, name, value, other)

    return compared


def _case(is_so: Callable[[str], bool]) -> Callable[..., bool]:
    @pass_context
    def case(context: BoundedContext, value: Any) -> bool:
        context.meter.go_through(value)
        return is_so(str(context.plain(value)))

    return case


def _of_a_number(is_so: Callable[..., bool]) -> Callable[..., bool]:
    def of_a_number(value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, int | float):  # `%` formats, if its left side is a string
            raise TypeError(f"a {type(value).__name__} has no remainder")
        return is_so(value, *args, **kwargs)

    return of_a_number


TESTS: dict[str, Callable[..., Any]] = {
    **{name: _JINJAS[name] for name in _LOOKING_AT_THE_TYPE},
    **{alias: _compared(name) for name, aliases in _COMPARISONS.items() for alias in aliases},
    "divisibleby": _of_a_number(tests.test_divisibleby),
    "even": _of_a_number(tests.test_even),
    "lower": _case(str.islower),
    "odd": _of_a_number(tests.test_odd),
    "upper": _case(str.isupper),
}
"""The tests by name."""
