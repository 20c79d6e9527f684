"""How much work a template may do."""

from typing import Any

import pytest
from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from gateway.chat.meter import CALL, NODE, Meter, OutOfWork, TooLong


def spent(value: Any, times: int = 1) -> int:
    meter = Meter(10)
    before = meter._left
    meter.go_through(value, times)
    return before - meter._left


def test_the_work_ends() -> None:
    meter = Meter(10)
    with pytest.raises(OutOfWork):
        for _ in range(10**9):
            meter.spend(CALL * 1000)


def test_a_text_has_a_longest() -> None:
    meter = Meter(10)
    meter.text(10)
    with pytest.raises(TooLong, match="more than 10 characters"):
        meter.text(11)


def test_a_longer_context_allows_for_more_work() -> None:
    assert Meter(10**7)._left > Meter(10)._left


def test_going_through_a_value_takes_as_long_as_it_is() -> None:
    assert spent("abc") == 3
    assert spent("éab") == 9
    assert spent(5) == spent(None) == spent(Undefined()) == NODE
    assert spent([1, 2]) == spent((1, 2)) == spent([(1, 2)]) - 3 * NODE
    assert spent({1: 2}.items()) == spent([(1, 2)])
    assert spent({"a": "b"}) == spent(["a", "b"]) - 2 * NODE
    assert spent({"a": 1}.keys()) == spent({1: "a"}.values()) == spent(["a"])
    assert spent(range(100)) == 204 * NODE
    assert spent(2**800) == NODE + 100
    assert spent([1, 2], times=3) == 3 * spent([1, 2])
    assert spent("ab", times=3) == 6


def test_what_holds_another_many_times_is_gone_through_each_time() -> None:
    value: Any = "x"
    for _ in range(8):
        value = [value, value]
    assert spent(value) > 2**8 * NODE
    for _ in range(60):
        value = [value, value]
    with pytest.raises(OutOfWork):
        spent(value)


@pytest.mark.parametrize("value", [object(), [print], {"a": {1, 2}}, {object(): 1}])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(SecurityError, match="is no data"):
        spent(value)


def test_no_work_gives_any_back() -> None:
    for work in (-1, -(10**9)):
        meter = Meter(10)
        with pytest.raises(OutOfWork):
            meter.spend(work)


def test_a_search_from_the_right_takes_longer() -> None:
    def searched(length: int, sought: int, from_the_right: bool = False) -> int:
        meter = Meter(10)
        before = meter._left
        meter.search("a" * length, "a" * sought, from_the_right)
        return before - meter._left

    assert searched(1000, 0) == searched(10, 11) == searched(10, 10) == 0
    assert searched(1000, 32) == searched(1000, 32, from_the_right=True) == 1000 - 31
    assert searched(20_000, 10_000) < searched(20_000, 10_000, from_the_right=True)


def test_whole_numbers_have_a_largest() -> None:
    meter = Meter(10)
    meter.integer(4096)
    with pytest.raises(OutOfWork):
        meter.integer(4097)
