"""How much work a template may do: counted, so that the same rendering always ends the same way."""

from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

NODE = 10
"""Work for a node of a template's syntax tree, executed once."""
CALL = 100
"""Work for a call of a filter, a method or a macro, besides the text that it goes through."""

# One unit is about the time to copy a character the slow way; these take about a second.
_WORK = 40_000_000
# For each character that the prompt may have: long prompts are copied a few times, too.
_WORK_PER_CHARACTER = 16
_INTEGER_BITS = 4096
_SCALARS = (str, int, float, bool, type(None))
_HOLDERS = (list, tuple, dict, ItemsView, KeysView, ValuesView)
# Printing a number takes this much less than printing as many letters as it has bits.
_BITS_AT_ONCE = 8
# Comparing letters where a text may be found, beginning anew at each.
_LETTERS_AT_ONCE = 32
# Looking from the left, Python is cleverer than that if it takes more comparisons than these.
_MOST_COMPARISONS = 3_000_000
# Text that is not ASCII has to be searched for marks, and freed from them.
_NOT_ASCII = 3


class TooLong(Exception):
    """More text than the context can hold."""


class OutOfWork(Exception):
    """A template that does more than rendering any conversation takes."""


class Meter:
    """The work that is left for one rendering.

    Attributes:
        longest: the most characters that any text may have.
    """

    __slots__ = ("_left", "longest")

    def __init__(self, longest: int) -> None:
        """Allow for a prompt of up to ``longest`` characters."""
        self.longest = longest
        self._left = _WORK + _WORK_PER_CHARACTER * longest

    def spend(self, work: int) -> None:
        """Do some work.

        Raises:
            OutOfWork: it is too much, or less than none.
        """
        self._left -= work
        if self._left < 0 or work < 0:
            raise OutOfWork("it does too much work")

    def text(self, length: int) -> None:
        """Make a text.

        Raises:
            TooLong: it has more than ``longest`` characters.
            OutOfWork: together with all before it is too much.
        """
        if length > self.longest:
            raise TooLong(f"more than {self.longest} characters")
        self.spend(length)

    def search(self, text: str, sought: str, from_the_right: bool = False) -> None:
        """Look for a text in another.

        Raises:
            OutOfWork: it is too much.
        """
        comparisons = max(len(text) - len(sought) + 1, 0) * len(sought)
        if not from_the_right:
            comparisons = min(comparisons, _MOST_COMPARISONS)
        self.spend(comparisons // _LETTERS_AT_ONCE)

    def go_through(self, value: object, times: int = 1) -> None:
        """Go through a value and all that it holds, as comparing or printing it does.

        Args:
            value: what to go through.
            times: how often.

        Raises:
            SecurityError: it holds something that is no data.
            OutOfWork: it holds too much (a list can hold another many times over), or too large
                numbers.
        """
        if type(value) is str:
            self.spend(times * _length(value))
            return
        before = self._left
        waiting: list[object] = [value]
        while waiting:
            item = waiting.pop()
            self.spend(NODE)
            if type(item) is str:
                self.spend(_length(item))
            elif type(item) is int:
                self.integer(item.bit_length())
                self.spend(item.bit_length() // _BITS_AT_ONCE)
            elif type(item) not in _SCALARS:
                self._open(item, waiting)
        self.spend((before - self._left) * (times - 1))

    def _open(self, value: Any, waiting: list[object]) -> None:
        if isinstance(value, Undefined):
            return
        if not isinstance(value, (*_HOLDERS, range)):
            raise SecurityError(f"a {type(value).__name__} is no data")
        self.spend(2 * NODE * len(value))
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, range):
            waiting += value.start, value.stop, value.step
        else:
            waiting.extend(value)

    def integer(self, bits: int) -> None:
        """Make a whole number, or go through one.

        Raises:
            OutOfWork: it has too many bits.
        """
        if bits > _INTEGER_BITS:
            raise OutOfWork("it computes with too large numbers")


def _length(text: str) -> int:
    return len(text) if text.isascii() else _NOT_ASCII * len(text)
