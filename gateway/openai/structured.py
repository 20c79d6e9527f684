"""What a completion may be bound to be, as clients ask for it."""

from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from gateway.openai.bodies import Body
from gateway.openai.json_schema import usable

MOST_GRAMMAR_BYTES = 256 << 10
"""The longest schema, expression or grammar that is compiled."""


def _schema(value: object) -> object:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise PydanticCustomError("invalid_value", "should be a JSON schema") from error
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "should be a JSON schema, which is an object")
    return usable(value)


def _choices(value: object) -> object:
    if isinstance(value, list) and any("\0" in each for each in value if isinstance(each, str)):
        raise PydanticCustomError("invalid_value", "should have no character NUL in it")
    return value


SchemaObject: TypeAlias = Annotated[
    dict[str, Any], BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | str)
]
GuidedChoices: TypeAlias = Annotated[
    list[str], Field(min_length=1, max_length=10_000, fail_fast=True), BeforeValidator(_choices)
]


class NamedSchema(Body):
    """A schema and what it is called."""

    name: str | None = None
    description: str | None = None
    json_schema: SchemaObject | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Schemas are always followed to the letter.")


class ResponseFormat(Body):
    """What an answer is bound to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = Field(None, validate_default=True)
    # As llama-cpp-python and others have it.
    object_schema: SchemaObject | None = Field(None, alias="schema")

    @field_validator("json_schema")
    @classmethod
    def _is_there(cls, value: NamedSchema | None, info: Any) -> NamedSchema | None:
        if value is None and info.data.get("type") == "json_schema":
            raise PydanticCustomError("missing_required_parameter", "is required")
        return value

    @property
    def bound_to(self) -> dict[str, Any] | None:
        """The schema that the answer has to follow; None for any text."""
        match self.type:
            case "json_schema":
                assert self.json_schema is not None, "it was checked"
                return self.json_schema.json_schema or {"type": "object"}
            case "json_object":
                return {"type": "object", **(self.object_schema or {})}
            case "text":
                return None
