"""What the operators of a template may compute."""

import pytest
from jinja2.exceptions import SecurityError

from gateway.chat.meter import OutOfWork, TooLong
from tests.unit.gateway.chat.expressions import bounded, unbounded


@pytest.mark.parametrize(
    "expression",
    [
        "1 + 2 - 3 * 4 / 5 // 6 % 7",
        "2 ** 10 ~ 2 ** -1 ~ 2.5 ** 2 ~ (-1) ** 3 ~ 0 ** 0 ~ 4 ** 0.5",
        "-(2 ** 2000) // 2 ** 1990",
        "2 ** 2000 * 2 ** 2000",
        "('a' + 'b') ~ ([1] + [2]) ~ ((1,) + (2,))",
        "'ab' * 3 ~ 2 * 'c' ~ [1] * 2 ~ (1,) * 2 ~ 'x' * -5 ~ true * 'y'",
        "1.5 * 2 ~ 7.5 % 2 ~ +3",
    ],
)
def test_what_is_bounded_is_computed(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    assert bounded(source) == unbounded(source)


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10 ** 9",
        "10 ** 9 * 'x'",
        "[1] * 10 ** 9",
        "(1,) * 10 ** 9",
        "2 ** 2049",
        "10 ** (10 ** 10)",
        "(-10) ** (10 ** 10)",
        "2 ** 4000 * 2 ** 4000",
        "0x" + "f" * 2000 + " + 1",
    ],
)
def test_what_is_too_much_is_not_even_begun(expression: str) -> None:
    with pytest.raises(OutOfWork):
        bounded(f"{{{{ {expression} }}}}")


def test_texts_are_not_added_up_without_end() -> None:
    with pytest.raises(TooLong):
        bounded("{{ ('x' * 9999 + 'yy') | length }}")


@pytest.mark.parametrize("expression", ["'%d' % 1", "'%1000000000d' % 1", "'%*d' % (10 ** 9, 1)"])
def test_no_text_is_formatted(expression: str) -> None:
    with pytest.raises(SecurityError):
        bounded(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize("expression", ["1 / 0", "'a' - 1", "[] + ''", "10.0 ** 10000"])
def test_pythons_own_errors_are_left(expression: str) -> None:
    with pytest.raises((ArithmeticError, TypeError)):
        bounded(f"{{{{ {expression} }}}}")
