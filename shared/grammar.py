"""What a completion is bound to be, as the gateway asks for it and a worker compiles it."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

JSON_OPTIONS: dict[str, Any] = {
    # A space or an indented line, but not white space for ever, which small models tend to.
    "whitespace_pattern": r"\x20|\x0A\x20{0,24}",
    # \\u could write halves of characters, which are no text, and whole ones as two.
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": False,
    "lenient": False,
}
"""How JSON is written; llguidance takes them from the key ``x-guidance`` of a schema."""


class GrammarKind(str, Enum):
    """How the source of a `Grammar` is to be read."""

    JSON_SCHEMA = "json_schema"
    """A JSON schema, as text: the completion is JSON that validates against it."""
    REGEX = "regex"
    """A regular expression, in the syntax of Rust's crate ``regex``, that matches all of it."""
    CHOICE = "choice"
    """A JSON list of strings, of which it is one."""
    LARK = "lark"
    """A grammar in llguidance's dialect of Lark, or in llama.cpp's GBNF."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a completion is bound to be."""

    kind: str  #: a `GrammarKind` value
    source: str
