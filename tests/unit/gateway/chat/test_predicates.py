"""The tests (``x is ...``): Jinja's, within bounds."""

import re

import pytest

from gateway.chat.predicates import TESTS
from tests.unit.gateway.chat.expressions import bounded, unbounded

EXPRESSIONS = [
    "true is boolean",
    "range is callable",
    "messages is defined",
    "nothing is undefined",
    "6 is divisibleby 3",
    "messages[0].role is eq 'user'",
    "messages[0].role is equalto('tool')",
    "2 is even",
    "3 is odd",
    "false is false",
    "1 is true",
    "1.5 is float",
    "1 is integer",
    "1 is number",
    "2 is gt 1",
    "2 is greaterthan 2",
    "2 is ge 2",
    "1 is lt 2",
    "1 is lessthan 1",
    "1 is le 1",
    "1 is ne 2",
    "messages[0].role is in ['user', 'tool']",
    "'i t' is in messages[0].content",
    "messages is iterable",
    "messages[0] is mapping",
    "none is none",
    "messages is sameas messages",
    "messages is sequence",
    "messages[0].content is string",
    "messages[0].role is lower",
    "'AB' is upper",
    "['AB'] is upper",
    "[1, 2] | select('==', 2) | list",
    "[1, 2] | select('!=', 2) | list",
    "[1, 2] | select('>', 1) | list",
    "[1, 2] | select('>=', 2) | list",
    "[1, 2] | select('<', 2) | list",
    "[1, 2] | select('<=', 1) | list",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_test_says_what_jinjas_says(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    assert bounded(source) == unbounded(source)


def test_every_test_is_tested() -> None:
    used = set(re.findall(r"is (\w+)|select\('(\W+)'", " ".join(EXPRESSIONS)))
    assert {"".join(names) for names in used} == set(TESTS)


@pytest.mark.parametrize("name", ["odd", "even", "divisibleby(1)"])
def test_a_remainder_never_formats(name: str) -> None:
    with pytest.raises(TypeError, match="has no remainder"):
        bounded(f"{{{{ '%1000000000d' is {name} }}}}")
