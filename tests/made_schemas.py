"""Varied JSON schemas, the same each time, of every kind that is supported."""

import random
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]

_WORDS = (
    "name", "age", "city", "items", "price", "tags", "größe", "id", "status", "email", "notes",
    "created-at", "is_active", "score", "parent", "日付",
)  # fmt: skip
_PATTERNS = (r"^[A-Z]{2}-\d{3,5}$", r"^(red|green|blue)$", r"^\+?[0-9]{6,10}$", r"^[a-z_]+$")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email", "hostname")
_DEEPEST = 3


def schemas(n: int, seed: int = 0) -> Iterator[Schema]:
    """Yield ``n`` schemas of objects, no two of them equal."""
    for place in range(n):
        yield _Maker(random.Random(seed * 10_000 + place)).root()


class _Maker:
    """Makes one schema, bounded so that what follows it is short."""

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._definitions: dict[str, Schema] = {}

    def root(self) -> Schema:
        """A schema of an object, with its definitions."""
        schema = self._object(0)
        if self._definitions:
            schema["$defs"] = self._definitions
        return schema

    def _any(self, level: int) -> Schema:
        """A schema of anything; deep down, of something that holds nothing else."""
        simple: list[Callable[[], Schema]] = [
            self._string, self._integer, self._number, self._boolean, self._enum, self._const,
            self._nullable, self._pattern, self._format,
        ]  # fmt: skip
        if level < _DEEPEST:
            nested: list[Callable[[int], Schema]] = [
                self._object, self._array, self._tuple, self._any_of, self._all_of, self._map,
                self._reference,
            ]  # fmt: skip
            if self._random.random() < 0.5:
                return self._random.choice(nested)(level + 1)
        return self._random.choice(simple)()

    def _object(self, level: int) -> Schema:
        names = self._random.sample(_WORDS, self._random.randint(1, 4))
        schema: Schema = {
            "type": "object",
            "properties": {name: self._any(level) for name in names},
            "additionalProperties": False,
        }
        if self._random.random() < 0.7:
            schema["required"] = names
        elif self._random.random() < 0.5:
            schema["required"] = names[:1]
        return schema

    def _array(self, level: int) -> Schema:
        least = self._random.randint(0, 2)
        most = least + self._random.randint(0, 2)
        return {"type": "array", "items": self._any(level), "minItems": least, "maxItems": most}

    def _tuple(self, level: int) -> Schema:
        items = [self._any(level) for _ in range(self._random.randint(1, 3))]
        return {
            "type": "array",
            "prefixItems": items,
            "items": False,
            "minItems": len(items),
            "maxItems": len(items),
        }

    def _any_of(self, level: int) -> Schema:
        return {"anyOf": [self._any(level), self._any(level)]}

    def _all_of(self, level: int) -> Schema:
        first, second = self._random.sample(_WORDS, 2)
        return {
            "allOf": [
                {"type": "object", "properties": {first: self._string()}, "required": [first]},
                {"type": "object", "properties": {second: self._integer()}, "required": [second]},
            ],
            "maxProperties": 2,
        }

    def _map(self, level: int) -> Schema:
        return {"type": "object", "additionalProperties": self._any(level), "maxProperties": 2}

    def _reference(self, level: int) -> Schema:
        name = f"def{len(self._definitions)}"
        self._definitions[name] = {}  # its place, should it hold others
        self._definitions[name] = self._object(level)
        return {"$ref": f"#/$defs/{name}"}

    def _string(self) -> Schema:
        schema: Schema = {"type": "string", "maxLength": self._random.randint(5, 30)}
        if self._random.random() < 0.3:
            schema["minLength"] = self._random.randint(1, 4)
        return schema

    def _pattern(self) -> Schema:
        return {"type": "string", "pattern": self._random.choice(_PATTERNS), "maxLength": 20}

    def _format(self) -> Schema:
        return {"type": "string", "format": self._random.choice(_FORMATS), "maxLength": 40}

    def _integer(self) -> Schema:
        least = self._random.randint(-1000, 1000)
        schema: Schema = {"type": "integer", "minimum": least, "maximum": least + 500}
        if self._random.random() < 0.3:
            schema["multipleOf"] = self._random.choice((2, 5, 10))
        return schema

    def _number(self) -> Schema:
        least = self._random.uniform(-10, 10)
        return {"type": "number", "minimum": round(least, 2), "exclusiveMaximum": 100}

    def _boolean(self) -> Schema:
        return {"type": "boolean"}

    def _enum(self) -> Schema:
        values = ["small", "größer", 'with "quotes"', 7, 2.5, None, True, ["a"], {"k": 1}]
        return {"enum": self._random.sample(values, self._random.randint(1, 4))}

    def _const(self) -> Schema:
        return {"const": self._random.choice(("fixed", 42, None, False, "a\\b\n", [1, 2]))}

    def _nullable(self) -> Schema:
        return {"type": ["string", "null"], "maxLength": 12}
