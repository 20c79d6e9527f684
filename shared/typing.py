"""Typing aids that the oldest supported Python lacks."""

from typing import NoReturn


def assert_never(value: NoReturn) -> NoReturn:
    """Mark a branch that no value can reach, so that mypy checks a ``match`` for completeness.

    The same as ``typing.assert_never``, which Python 3.10 does not have.

    Raises:
        AssertionError: always; a value got here that the types rule out.
    """
    raise AssertionError(f"unexpected value: {value!r}")
