"""The methods of strings that templates may call: bounded, and aware of marks."""

from collections.abc import Callable, Sequence
from typing import Any

from jinja2.exceptions import SecurityError

from gateway.chat.meter import NODE, Meter
from gateway.chat.special import SpecialTokens, has_marks

_FACTS = {
    "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "islower", "isnumeric", "isspace", "istitle", "isupper", "rfind", "rindex", "startswith",
}  # fmt: skip
_SEARCHES = {"count", "find", "index", "rfind", "rindex"}
_CASES = {"capitalize", "casefold", "lower", "swapcase", "title", "upper"}
_CUTS = {"lstrip", "removeprefix", "removesuffix", "rstrip", "strip"}
_PIECES = {"partition", "rpartition", "rsplit", "split", "splitlines"}

# Letter by letter, in Python.
_MARKING = 16
_LETTERS_AT_ONCE = 8

TEXT_METHODS = frozenset({*_FACTS, *_CASES, *_CUTS, *_PIECES, "join", "replace"})
"""The names of all of them."""


class TextMethods:
    """The methods, within the work that one rendering may do."""

    def __init__(self, special: SpecialTokens, meter: Meter) -> None:
        """Know what is marked, and how much work is left."""
        self._special = special
        self._meter = meter

    def call(self, text: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """``text.name(*args, **kwargs)``.

        Raises:
            SecurityError: there is no such method here.
        """
        if name == "join":
            return self.join(text, *args)
        self._meter.text(len(text))
        self._meter.go_through(text)
        if name == "replace":
            return self.replace(text, *args, **kwargs)
        args = tuple(map(self._argument, args))
        kwargs = {key: self._argument(value) for key, value in kwargs.items()}
        if name in _SEARCHES and args and isinstance(args[0], str):
            self._meter.search(text, args[0], from_the_right=name.startswith("r"))
        if name in _FACTS:
            return getattr(self._special.plain(text), name)(*args, **kwargs)
        if name in _CASES:
            return self.changed(text, lambda plain: getattr(plain, name)())
        if name in _CUTS:
            return self._cut(text, name, *args)
        if name in _PIECES:
            pieces = self._pieces(text, name, args, kwargs)
            self._meter.spend(NODE * len(pieces))
            return pieces
        raise SecurityError(f"strings have no method {name!r} here")

    def join(self, text: str, parts: Any) -> str:
        """``text.join(parts)``."""
        self._meter.go_through(parts)
        parts = list(parts)
        self._meter.text(sum(map(len, parts)) + len(text) * len(parts))
        return text.join(parts)

    def replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        """``text.replace(old, new, count)``."""
        self._meter.go_through((text, old, new))
        self._meter.search(text, old)
        plain, old = self._special.plain(text), self._special.plain(old)
        found = plain.count(old) if count < 0 else min(plain.count(old), count)
        self._meter.text(len(text) + found * (len(new) - len(old)))
        if plain == text or not old:
            return plain.replace(old, new, count)
        self._meter.spend(_MARKING * found)
        return new.join(_aligned(text, plain.split(old, count), len(old)))

    def changed(self, text: str, change: Callable[[str], str]) -> str:
        """A text whose letters are changed; it stays marked where it was, if that can be told."""
        plain = self._special.plain(text)
        result = change(plain)
        if plain == text or len(result) != len(text):
            return result
        self._meter.spend(_MARKING * len(text))
        return self._special.like(result, text)

    def _argument(self, value: Any) -> Any:
        self._meter.go_through(value)
        if isinstance(value, tuple):
            return tuple(map(self._argument, value))
        return self._special.plain(value) if isinstance(value, str) else value

    def _cut(self, text: str, name: str, *args: Any) -> str:
        if args and args[0]:  # each letter of the text is looked for in all of these
            self._meter.spend(len(text) * len(args[0]) // _LETTERS_AT_ONCE)
        plain = self._special.plain(text)
        kept: str = getattr(plain, name)(*args)
        if name == "strip":
            start = len(plain) - len(plain.lstrip(*args))
        else:
            start = len(plain) - len(kept) if name in ("lstrip", "removeprefix") else 0
        return text[start : start + len(kept)]

    def _pieces(
        self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Sequence[str]:
        separator = args[0] if args else kwargs.get("sep")
        if isinstance(separator, str):
            self._meter.search(text, separator, from_the_right=name.startswith("r"))
        if not has_marks(text) or name == "splitlines" or separator is None:
            pieces: Sequence[str] = getattr(text, name)(*args, **kwargs)
            return pieces
        plain: Sequence[str] = getattr(self._special.plain(text), name)(*args, **kwargs)
        if "partition" in name:
            return tuple(_aligned(text, plain, 0))
        return _aligned(text, plain, len(separator))


def _aligned(text: str, pieces: Sequence[str], gap: int) -> list[str]:
    """The parts of ``text`` where ``pieces`` are, with ``gap`` characters between them."""
    parts, start = [], 0
    for piece in pieces:
        parts.append(text[start : start + len(piece)])
        start += len(piece) + gap
    return parts
