"""JSON schemas of clients: which can be kept to, and what they mean where they do not say. Pure."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from gateway.errors import refused

Schema = dict[str, Any]

# Keywords by what they hold: schemas by name, a list of schemas, one schema.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    "items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
# What may speak of an object's properties beside ``properties``.
_BESIDE = ("$ref", "anyOf", "oneOf", "allOf", "if", "then", "else", "dependentSchemas")
_OPENINGS = ("additionalProperties", "patternProperties", "unevaluatedProperties")
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
"""What the compiler of grammars knows; any other is a note to people, as JSON Schema has it."""
# Grammars leave them out of texts without a word, since JSON could write them only as numbers.
_UNWRITTEN = re.compile("[\0-\x07\x0b\x0e-\x1f\x7f]")


def check_schema(schema: Schema, param: str, *, is_strict: bool = True) -> None:
    """Refuse a schema that would be followed wrongly without a word from the compiler.

    Raises:
        ApiError: it names ``param``.
    """
    for each in _all(schema):
        names = list(each["properties"]) if isinstance(each.get("properties"), dict) else []
        if any(map(_UNWRITTEN.search, _texts([each.get("const"), each.get("enum"), names]))):
            raise refused(
                param, "should have no control characters in names and values: they are not written"
            )
    for each in _all(schema) if is_strict else ():
        least, listed = each.get("minProperties"), each.get("required")
        n_listed = len(listed) if isinstance(listed, list) else 0
        if isinstance(least, int) and least > max(1, n_listed):
            # Grammars let names repeat that a schema does not list.
            raise refused(
                param,
                "should not ask for more 'minProperties' than there are 'required' ones:"
                " names that it does not list may repeat",
            )
        for name in ("exclusiveMinimum", "exclusiveMaximum"):
            if isinstance(each.get(name), bool):
                raise refused(
                    param, f"should have a number as '{name}', as JSON Schema has it since draft 6"
                )


def _texts(value: object) -> Iterator[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value:
            yield from _texts(each)
        for each in value.values() if isinstance(value, dict) else ():
            yield from _texts(each)


def prepared(schema: Schema) -> Schema:
    """A schema for the compiler of grammars, with what its author left open.

    Objects that list their properties get no others: who does not say so hardly wants a model to
    make some up, and small ones find no end to it. Whatever follows this follows the schema. It is
    left as it is where properties of one object are listed in several places.
    """
    changed: Schema = _changed(schema, _without_unknown_format)
    if any(_is_pieced_together(each) for each in _all(changed)):
        return changed
    closed: Schema = _changed(changed, _closed)
    return closed


def _all(schema: Schema) -> list[Schema]:
    """A schema and all within it."""
    found: list[Schema] = []

    def note(each: Schema) -> Schema:
        found.append(each)
        return each

    _changed(schema, note)
    return found


def _changed(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A copy of a schema where it and all within it are changed."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for keyword, inner in schema.items():
        if keyword in _MAPS and isinstance(inner, dict):
            copy[keyword] = {name: _changed(each, change) for name, each in inner.items()}
        elif keyword in (*_LISTS, *_SINGLE) and isinstance(inner, list):
            copy[keyword] = [_changed(each, change) for each in inner]
        elif keyword in _SINGLE:
            copy[keyword] = _changed(inner, change)
    return change(copy)


def _without_unknown_format(schema: Schema) -> Schema:
    if schema.get("format", "") in _FORMATS or not isinstance(schema.get("format"), str):
        return schema
    return {keyword: value for keyword, value in schema.items() if keyword != "format"}


def _is_pieced_together(schema: Schema) -> bool:
    """Whether several places speak of the properties of one object."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) > 1:
        return True
    beside = [keyword for keyword in _BESIDE if keyword in schema]
    return bool(beside) and ("properties" in schema or len(beside) > 1)


def _closed(schema: Schema) -> Schema:
    listed = schema.get("properties")
    if not isinstance(listed, dict) or any(keyword in schema for keyword in _OPENINGS):
        return schema
    required, least = schema.get("required", ()), schema.get("minProperties", 0)
    needs_others = isinstance(required, list) and any(name not in listed for name in required)
    if needs_others or (isinstance(least, int) and least > len(listed)):
        return schema
    return {**schema, "additionalProperties": False}
