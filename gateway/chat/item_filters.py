"""The filters that take items: Jinja's, within bounds."""

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Undefined, filters, pass_context
from jinja2.exceptions import SecurityError

from gateway.chat.context import BoundedContext
from gateway.chat.meter import CALL, NODE
from gateway.chat.operators import check_key, part, text_of

# Sorting compares each item with a few others.
_SORTING = 20


@pass_context
def join(context: BoundedContext, value: Any, d: str = "", attribute: Any = None) -> str:
    """The items as one text."""
    items = _mapped(context, value, attribute)
    return context.text.join(text_of(context, d), [text_of(context, item) for item in items])


@pass_context
def total(context: BoundedContext, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    """The sum of numbers."""
    numbers = [start, *_mapped(context, value, attribute)]
    if not all(isinstance(item, int | float) for item in numbers):
        raise SecurityError("sum() takes only numbers")
    return sum(numbers)


def listed_filter(function: Callable[..., Any], names: int = 0) -> Callable[..., Any]:
    """A filter of Jinja's that yields items, which are counted and listed at once.

    Args:
        function: the filter; it takes the context if it has any ``names``.
        names: how many of its first arguments name attributes, filters or tests.
    """

    @pass_context
    def listed(context: BoundedContext, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        for name in args[:names]:
            check_key(name)
        args = (*map(context.plain, args[:names]), *args[names:])
        items = _items(context, value, *args, *kwargs.values())
        first = (context,) if names else ()
        return list(function(*first, items, *args, **kwargs))

    return listed


@pass_context
def reverse(context: BoundedContext, value: Any) -> Any:
    """The text or the items from the last to the first."""
    if isinstance(value, str):
        return part(context, value, None, None, -1)
    return list(reversed(list(_items(context, value))))


@pass_context
def sort(
    context: BoundedContext,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> list[Any]:
    """The items in order."""
    items = _compared_items(context, value, attribute)
    key = _key(context, attribute, case_sensitive, filters.make_multi_attrgetter)
    return sorted(items, key=key, reverse=reverse)


@pass_context
def dictsort(
    context: BoundedContext,
    value: Any,
    case_sensitive: bool = False,
    by: str = "key",
    reverse: bool = False,
) -> list[Any]:
    """The pairs of a dictionary in order of their keys or values."""
    items = _compared_items(context, value.items(), None)
    return sorted(items, key=_key(context, int(by == "value"), case_sensitive), reverse=reverse)


@pass_context
def unique(
    context: BoundedContext, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    """The items, of equal ones the first."""
    key = _key(context, attribute, case_sensitive)
    found: dict[Any, Any] = {}
    for item in _compared_items(context, value, attribute):
        check_key(its_key := key(item))
        found.setdefault(its_key, item)
    return list(found.values())


def extreme_filter(choose: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that chooses an item by comparing all."""

    @pass_context
    def extreme(
        context: BoundedContext, value: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Any:
        items = _compared_items(context, value, attribute)
        if not items:
            return context.environment.undefined("there is none")
        return choose(items, key=_key(context, attribute, case_sensitive))

    return extreme


def _key(
    context: BoundedContext,
    attribute: Any,
    case_sensitive: bool,
    make: Callable[..., Callable[[Any], Any]] = filters.make_attrgetter,
) -> Callable[[Any], Any]:
    """What an item is compared by; whoever wrote it."""

    def plain(value: Any) -> Any:
        value = context.plain(value)
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    return make(context.environment, attribute, postprocess=plain)


def _compared_items(context: BoundedContext, value: Any, attribute: Any) -> list[Any]:
    # Several attributes, with commas between them: any may be all of an item.
    attributes = 1 + (attribute.count(",") if isinstance(attribute, str) else 0)
    context.meter.go_through(value, times=_SORTING * attributes)
    return list(_items(context, value, attribute or ""))


def _mapped(context: BoundedContext, value: Any, attribute: Any) -> Iterable[Any]:
    items = _items(context, value, attribute)
    if attribute is None:
        return items
    mapped: Iterable[Any] = filters.sync_do_map(context, items, attribute=attribute)
    return mapped


def _items(context: BoundedContext, value: Any, *args: Any) -> Iterable[Any]:
    """The items, each of which something will be done to as ``args`` say."""
    if not isinstance(value, Undefined):
        # The name of an attribute is a path, and each step takes time.
        steps = sum(len(arg) for arg in args if isinstance(arg, str))
        work = NODE if not args else CALL + NODE * (len(args) + steps)
        context.meter.spend(CALL + work * len(value))
    items: Iterable[Any] = value
    return items
