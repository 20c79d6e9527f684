"""The context of one rendering: what it may still do, and what it knows of special tokens."""

from functools import cached_property
from typing import Any

from jinja2.runtime import Context

from gateway.chat.meter import Meter
from gateway.chat.special import SpecialTokens
from gateway.chat.text_methods import TextMethods


class BoundedContext(Context):
    """A context that counts.

    Attributes:
        meter: the work that is left; set before rendering.
        special: the special tokens of the model.
    """

    meter: Meter
    special: SpecialTokens

    @cached_property
    def text(self) -> TextMethods:
        """The methods of strings."""
        return TextMethods(self.special, self.meter)

    def plain(self, value: Any) -> Any:
        """The value without marks, all through: for what compares, computes or encodes."""
        match value:
            case str():
                return self.special.plain(value)
            case list():
                return [self.plain(item) for item in value]
            case tuple():
                return tuple(self.plain(item) for item in value)
            case dict():
                return {self.plain(key): self.plain(item) for key, item in value.items()}
            case _:
                return value
