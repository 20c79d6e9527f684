"""The context of one rendering."""

from typing import Any

import pytest

from gateway.chat.context import BoundedContext
from gateway.chat.meter import Meter
from gateway.chat.sandbox import _Environment
from tests.unit.gateway.chat.expressions import SPECIAL


@pytest.fixture
def context() -> BoundedContext:
    made = _Environment(SPECIAL).from_string("").new_context()
    assert isinstance(made, BoundedContext)
    made.meter, made.special = Meter(100), SPECIAL
    return made


def test_marks_come_off_all_through(context: BoundedContext) -> None:
    marked = SPECIAL.mark("<s>")
    value: Any = [marked, {marked: (marked, 1)}, None]
    assert context.plain(value) == ["<s>", {"<s>": ("<s>", 1)}, None]


def test_methods_of_strings_share_its_work(context: BoundedContext) -> None:
    before = context.meter._left
    assert context.text.call("ab", "upper") == "AB"
    assert context.text is context.text
    assert context.meter._left < before
