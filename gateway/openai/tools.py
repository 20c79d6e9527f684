"""The functions that a model may call, as clients describe them."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gateway.openai.bodies import Body
from gateway.openai.json_schema import usable, writable

MOST_TOOLS = 128
"""The most functions of a request."""

FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FunctionDefinition(Body):
    """A function: its name, and a JSON schema of its arguments."""

    name: FunctionName
    description: str | None = None
    strict: bool | None = Field(
        None,
        description="Arguments follow all of their schema, or it is refused; else all that can be.",
    )
    parameters: dict[str, Any] | None = None

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_an_object(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict) and value.get("type", "object") != "object":
            message = "should describe an object: arguments have names"
            raise PydanticCustomError("invalid_value", message)
        return usable(value) if info.data.get("strict") else writable(value)

    @property
    def arguments(self) -> dict[str, Any]:
        """The schema of the arguments; without one there are none."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}

    @property
    def is_strict(self) -> bool:
        """Whether a schema that cannot be followed in all it says is refused."""
        return self.strict is True


class Tool(Body):
    """Something that the model may use; functions are all there is."""

    type: Literal["function"]
    function: FunctionDefinition

    @field_validator("type", mode="before")
    @classmethod
    def _only_functions(cls, value: object) -> object:
        if isinstance(value, str) and value != "function":
            message = "should be 'function': this server knows no other tools"
            raise PydanticCustomError("unsupported_parameter", message)
        return value


class FunctionRef(Body):
    """The name of a function of the request."""

    name: str


class NamedTool(Body):
    """A tool of the request."""

    type: Literal["function"]
    function: FunctionRef


class AllowedTools(Body):
    """Some tools of the request."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS)]


class ChosenTools(Body):
    """Which tools are to be used: a certain one, or some of them."""

    type: Literal["function", "allowed_tools"]
    function: FunctionRef | None = None
    allowed_tools: AllowedTools | None = None


def _choice(value: object) -> object:
    if value in ("none", "auto", "required"):
        return value
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("function", "allowed_tools") and isinstance(value, dict) and value.get(kind):
        try:
            return ChosenTools.model_validate(value)
        except ValidationError:
            pass  # what would be right says it better
    message = (
        "should be 'none', 'auto', 'required', {'type': 'function', 'function': {'name': ...}}"
        " or {'type': 'allowed_tools', 'allowed_tools': {'mode': ..., 'tools': [...]}}"
    )
    raise PydanticCustomError("invalid_value", "{text}", {"text": message})


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)]
ToolChoice: TypeAlias = Annotated[
    Literal["none", "auto", "required"] | ChosenTools,
    PlainValidator(
        _choice, json_schema_input_type=Literal["none", "auto", "required"] | ChosenTools
    ),
]
