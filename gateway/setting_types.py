"""What the values of settings may be: each function makes a parser, which raises `ValueError`.

The text of the error says what is allowed.
"""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from shared.errors import UsageError
from shared.model.description import Family, family_named

MODEL_TYPES = (*(family.value for family in Family), "gguf", "echo")
"""The names of `MODEL_TYPE`; `shared.model.description` knows further spellings."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def amount(high: float, unit: str) -> Callable[[str], float]:
    """A number of ``unit`` from 0 to ``high``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= high:
            raise ValueError(f"a number of {unit} from 0 to {high:g}")
        return value

    return parse


def auto_or(parse_given: Callable[[str], float]) -> Callable[[str], float | None]:
    """``auto``, which is None, or what another parser takes."""

    def parse(text: str) -> float | None:
        if text == "auto":
            return None
        try:
            return parse_given(text)
        except ValueError as error:
            raise ValueError(f"auto, or {error}") from None

    return parse


def size(text: str) -> int:
    """A number of bytes; ``512M`` and ``2GiB`` count in powers of 1,024."""
    lower = text.strip().lower().removesuffix("b").removesuffix("i")
    digits = lower.rstrip("kmgt")
    unit = lower[len(digits) :]
    if not (digits.isascii() and digits.isdecimal() and unit in _SIZE_UNITS):
        raise ValueError("a size like 512M or 2G, or a number of bytes")
    return int(digits) * _SIZE_UNITS[unit]


def size_or_none(text: str) -> int | None:
    """The same; 0 is None, for no bound."""
    return size(text) or None


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """One of some words, whatever their case."""

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"one of: {', '.join(allowed)}")
        return text.lower()

    return parse


def flag(text: str) -> bool:
    """Yes or no."""
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ValueError("1 or 0")


def model_type(text: str) -> str:
    """One of `MODEL_TYPES`, or another spelling of it."""
    if text.lower() != "echo":
        try:
            family_named(text)
        except UsageError:
            raise ValueError(f"one of: {', '.join(MODEL_TYPES)}") from None
    return text.lower()


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, with commas between, as browsers send them; or ``*``."""
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for origin in found:
        parts = urlsplit(origin)
        if origin != "*" and (origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc):
            raise ValueError(
                "origins like https://example.org, without a path, with commas between; or *"
            )
    return tuple(_without_default_port(origin) for origin in found)


def _without_default_port(origin: str) -> str:
    """``origin`` as browsers send it."""
    for scheme, port in _DEFAULT_PORTS.items():
        if origin.startswith(f"{scheme}://"):
            return origin.removesuffix(f":{port}")
    return origin


def host_names(text: str) -> tuple[str, ...]:
    """Names of hosts, without port, with commas between."""
    parts = (part.strip().lower() for part in text.split(",") if part.strip())
    found = tuple(part.removesuffix(".") for part in parts)
    if any(not name or set(name) & set("/ @") or name.count(":") == 1 for name in found):
        raise ValueError("names of hosts, without http:// and port, with commas between")
    return found
