"""The filters that templates may use, by name, and those for numbers: Jinja's, within bounds."""

from collections.abc import Callable
from typing import Any

from jinja2 import filters, pass_context
from jinja2.exceptions import FilterArgumentError, SecurityError

from gateway.chat.context import BoundedContext
from gateway.chat.item_filters import (
    dictsort,
    extreme_filter,
    join,
    listed_filter,
    reverse,
    sort,
    total,
    unique,
)
from gateway.chat.text_filters import case_filter, indent, replace, string, tojson, trim

_MOST_DIGITS = 30
_LONGEST_NUMBER = 1000


@pass_context
def whole(context: BoundedContext, value: Any, default: Any = 0, base: int = 10) -> Any:
    """The value as a whole number."""
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return default
    context.meter.go_through(value)
    return filters.do_int(context.plain(value), default, base)


@pass_context
def number(context: BoundedContext, value: Any, default: Any = 0.0) -> Any:
    """The value as a number."""
    context.meter.go_through(value)
    return filters.do_float(context.plain(value), default)


def rounded(value: Any, precision: int = 0, method: Any = "common") -> Any:
    """The number, rounded."""
    if not isinstance(value, int | float) or abs(precision) > _MOST_DIGITS:
        raise SecurityError(f"round({precision}) is more than {_MOST_DIGITS} digits")
    if method not in ("common", "ceil", "floor"):  # Jinja would hash it
        raise FilterArgumentError("method must be common, ceil or floor")
    return filters.do_round(value, precision, method)


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "capitalize": case_filter(str.capitalize),
    "count": len,
    "d": filters.do_default,
    "default": filters.do_default,
    "dictsort": dictsort,
    "first": filters.sync_do_first,
    "float": number,
    "indent": indent,
    "int": whole,
    "items": listed_filter(filters.do_items),
    "join": join,
    "last": filters.do_last,
    "length": len,
    "list": listed_filter(list),
    "lower": case_filter(str.lower),
    "map": listed_filter(filters.sync_do_map, names=1),
    "max": extreme_filter(max),
    "min": extreme_filter(min),
    "reject": listed_filter(filters.sync_do_reject, names=1),
    "rejectattr": listed_filter(filters.sync_do_rejectattr, names=2),
    "replace": replace,
    "reverse": reverse,
    "round": rounded,
    "safe": string,
    "select": listed_filter(filters.sync_do_select, names=1),
    "selectattr": listed_filter(filters.sync_do_selectattr, names=2),
    "sort": sort,
    "string": string,
    "sum": total,
    "title": case_filter(filters.do_title),
    "tojson": tojson,
    "trim": trim,
    "unique": unique,
    "upper": case_filter(str.upper),
}
"""The filters by name; Jinja's others go through text or make it without a bound."""
