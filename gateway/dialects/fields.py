"""Strict fields of request bodies, and the sentences that say what is wrong with one.

Every optional field may be null, which means its default. Fields that no dialect knows are ignored.
Whatever is refused becomes an `ApiError` that names the field.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.errors import ApiError, refused
from shared.errors import ErrorCode

BodyT = TypeVar("BodyT", bound=BaseModel)

INT64 = 2**63
MAX_BIASES = 1024
"""The most entries of ``logit_bias``."""
MOST_LOGPROBS = 20
"""The most alternatives of a token that are told of."""
MOST_INPUTS = 2048
"""The most texts of a request, as OpenAI has it for embeddings."""
MAX_ITEMS = 10_000
"""The most messages in a conversation, and parts in a message."""
MOST_CHOICES = 10_000
"""The most texts that an answer may be bound to be one of."""
MOST_LEVELS = 64
"""How deep the JSON of a client's own (a schema, arguments) may be nested."""
MOST_NODES = 100_000
"""And how many values it may hold."""

_OUR_TYPES = {code.value for code in ErrorCode}
# What pydantic says with the names of our classes, or of Python's.
_SENTENCES = {
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "dict_type": "should be an object",
    "none_required": "should be null",
}

_SCHEMA_WORDS = frozenset(
    {"$ref", "allOf", "anyOf", "const", "enum", "oneOf", "properties", "type"}
)


class Body(BaseModel):
    """A body, or a part of one: strict, immutable; fields that it does not have are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


def wrong(sentence: str, code: ErrorCode = ErrorCode.INVALID_VALUE) -> PydanticCustomError:
    """What a validator raises; the sentence goes on after the name of the field."""
    return PydanticCustomError(code.value, "{text}", {"text": sentence})


def checked(model: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """A body that has been checked."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _as_api_error(error.errors(include_url=False)[0]) from error


def _as_api_error(error: ErrorDetails) -> ApiError:
    kind, param = error["type"], path_of(error["loc"])
    if kind == "missing":
        return refused(param, "is required", ErrorCode.MISSING_PARAMETER)
    if kind in _OUR_TYPES:
        return refused(param, error["msg"], ErrorCode(kind))
    # pydantic's "Input should be ...", "List should have ..."
    sentence = error["msg"].partition(" ")[2].replace(" after validation", "")
    return refused(param, _SENTENCES.get(kind, sentence))


def path_of(location: Sequence[str | int]) -> str:
    """A place in the body as clients write it, e.g. ``messages[0].role``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")


def check_count(items: Sequence[object], most: int) -> None:
    """Refuse too many, before a validator takes its microseconds for each."""
    if len(items) > most:
        raise wrong(f"should have at most {most} items, not {len(items)}")


def bounded(value: Any) -> Any:
    """Let JSON of a client's own pass if it is not too much to go through."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    n_nodes = 0
    while waiting:
        item, level = waiting.pop()
        n_nodes += 1
        if level > MOST_LEVELS:
            raise wrong(f"should be nested at most {MOST_LEVELS} levels deep")
        if n_nodes > MOST_NODES:
            raise wrong(f"should hold at most {MOST_NODES} values in all")
        if isinstance(item, dict):
            waiting.extend((inner, level + 1) for inner in item.values())
        elif isinstance(item, list):
            waiting.extend((inner, level + 1) for inner in item)
    return value


def _listed(value: object) -> object:
    if not isinstance(value, str | list):
        raise wrong("should be a string or a list of strings")
    return [value] if isinstance(value, str) else value


def _biases(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        raise wrong(f"should have at most {MAX_BIASES} token ids, not {len(value)}")
    for token in value:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise wrong(f"should have token ids as keys, not {token[:20]!r}")
    return value


def _schema(value: object) -> object:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise wrong("should be a JSON schema") from error
    if not isinstance(value, dict):
        raise wrong("should be a JSON schema, which is an object")
    return bounded(value)


def _choices(value: object) -> object:
    if isinstance(value, list) and any("\0" in each for each in value if isinstance(each, str)):
        raise wrong("should have no character NUL in it")
    return value


StopString: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings: TypeAlias = Annotated[
    list[StopString],
    Field(max_length=16, fail_fast=True),
    BeforeValidator(
        _listed,
        json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=16)],
    ),
]
TokenId: TypeAlias = Annotated[int, Field(ge=0)]
Biases: TypeAlias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_biases)
]
SchemaObject: TypeAlias = Annotated[
    dict[str, Any], BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | str)
]
GuidedChoices: TypeAlias = Annotated[
    list[str],
    Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True),
    BeforeValidator(_choices),
]


class NamedSchema(Body):
    """A schema and what it is called."""

    name: str | None = None
    description: str | None = None
    json_schema: SchemaObject | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Schemas are always followed to the letter.")

    @model_validator(mode="before")
    @classmethod
    def _bare_schema(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "schema" in value:
            return _without_others(value, {"name", "description", "schema", "strict"})
        if _SCHEMA_WORDS & value.keys():  # a schema in the place of what should hold it
            return {"schema": value}
        return _without_others(value, {"name", "description", "strict"})


class ResponseFormat(Body):
    """What an answer is bound to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = Field(None, validate_default=True)
    # As llama-cpp-python and others have it.
    object_schema: SchemaObject | None = Field(None, alias="schema")

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, value: Any) -> Any:
        return _without_others(value, {"type", "json_schema", "schema"})

    @field_validator("json_schema")
    @classmethod
    def _is_there(cls, value: NamedSchema | None, info: Any) -> NamedSchema | None:
        kind = info.data.get("type", "json_schema")
        if value is None and info.data.get("type") == "json_schema":
            raise wrong("is required", ErrorCode.MISSING_PARAMETER)
        if value is not None and kind != "json_schema":
            raise wrong("is allowed only with 'type': 'json_schema'")
        return value

    @field_validator("object_schema")
    @classmethod
    def _of_an_object(cls, value: Any, info: Any) -> Any:
        if value is not None and info.data.get("type", "json_object") != "json_object":
            raise wrong("is allowed only with 'type': 'json_object'")
        return value

    @property
    def wanted(self) -> dict[str, Any]:
        """The schema that the answer has to follow, if it has to be JSON."""
        if self.json_schema is not None:
            return self.json_schema.json_schema or {"type": "object"}
        return {"type": "object", **(self.object_schema or {})}


def _without_others(value: Any, known: set[str]) -> Any:
    """Let an object pass whose fields are all known: others may bind the answer to something."""
    for name in value if isinstance(value, dict) else ():
        if name not in known and value[name] is not None:
            raise wrong(f"should have no '{name}': it is not known here")
    return value
