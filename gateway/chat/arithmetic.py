"""What the operators of a template may compute; checked before, since no one could stop them."""

from collections.abc import Callable
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from gateway.chat.meter import NODE, Meter


def _add(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        meter.text(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        meter.spend(NODE * (len(left) + len(right)))
    else:
        _compute(meter, left, right)


def _multiply(meter: Meter, left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
            size = len(many) * max(times, 0)
            meter.spend(size if isinstance(many, str) else NODE * size)
            return
    _check_numbers(left, right)
    meter.integer(_bits(left) + _bits(right))


def _raise_to_power(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        meter.integer(_bits(left) * min(right, 1 << 32))
    _compute(meter, left, right)


def _remainder(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, str):
        raise SecurityError("'%' does not format strings here")
    _compute(meter, left, right)


def _compute(meter: Meter, left: Any, right: Any) -> None:
    _check_numbers(left, right)
    meter.integer(max(_bits(left), _bits(right)))


def _check_numbers(*values: Any) -> None:
    for value in values:  # the keys of dictionaries could be subtracted, too
        if not isinstance(value, int | float | Undefined):
            raise TypeError(f"a {type(value).__name__} is no number")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


BOUNDS: dict[str, Callable[[Meter, Any, Any], None]] = {
    "+": _add,
    "-": _compute,
    "*": _multiply,
    "/": _compute,
    "//": _compute,
    "%": _remainder,
    "**": _raise_to_power,
}
"""For each operator, what it costs and what it refuses."""
