"""Compiles and renders chat templates, which come from model files that nobody here has read.

A template is a program. minijinja keeps it from everything that is not its own, and its fuel from
loops without end. Neither bounds all that a hostile one can do to time, memory and stack: it is to
be rendered in a process that may die, see `worker.preparer`.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NoReturn

from minijinja import Environment, TemplateError

MAX_SOURCE = 64 << 10
"""The most characters that a template's source may have."""

# Instructions; a chat of 400 messages takes at most a million with any of 80 published templates.
_FUEL = 20_000_000
_LONGEST_MESSAGE = 500
# Marks for training what a model has said; here it only groups.
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class Refused(Exception):
    """A template says, by ``raise_exception``, that it does not take a conversation."""


class OutOfFuel(Exception):
    """A template does too much; the text says of what."""


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        """Compile ``source``.

        Raises:
            ValueError: it cannot be compiled; the text says where and why.
        """
        if len(source) > MAX_SOURCE:
            raise ValueError(f"it has {len(source)} characters, more than {MAX_SOURCE}")
        self._environment = Environment(
            filters={"tojson": _tojson},
            tests={"iterable": _is_iterable},
            globals={"raise_exception": _raise_exception, "strftime_now": _strftime_now},
            trim_blocks=True,
            lstrip_blocks=True,
            undefined_behavior="lenient",
            pycompat=True,
            fuel=_FUEL,
            debug=True,  # errors name what is undefined
        )
        source = source.encode("utf-8", "replace").decode()
        try:
            self._environment.add_template("chat", _GENERATION.sub(_as_block, source))
        except TemplateError as error:
            raise ValueError(f"line {error.line}: {error.detail or error.kind}") from error

    def render(self, variables: dict[str, Any]) -> str:
        """The text that the template makes of what it is to know.

        Raises:
            Refused: it does not take these variables.
            OutOfFuel: it does too much.
            ValueError: it fails otherwise; the text says why.
        """
        try:
            return self._environment.render_template("chat", **variables)
        except Refused:
            raise
        except MemoryError as error:
            raise OutOfFuel("it takes too much memory") from error
        except TemplateError as error:
            if error.kind == "OutOfFuel":
                raise OutOfFuel("it does too much") from error
            # Not the whole text, which quotes the template and the conversation.
            raise ValueError(f"line {error.line}: {error.detail or error.kind}") from None
        except Exception as error:  # of Python's functions, which it may call with anything
            raise ValueError(str(error) or type(error).__name__) from error


def _as_block(match: re.Match[str]) -> str:
    return f"{{%{match[1]} {'endif' if match[2] else 'if true'} {match[3]}%}}"


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable)  # minijinja's own is true of none


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message)[:_LONGEST_MESSAGE])


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
