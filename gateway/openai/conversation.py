"""The messages of a conversation, as clients send them."""

from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gateway.openai.bodies import Body, bounded

MAX_ITEMS = 10_000
"""The most messages in a conversation, and parts in a message."""


class TextPart(Body):
    """A piece of a message's content; text is the only kind there is."""

    type: Literal["text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        if isinstance(value, str) and value != "text":
            message = "should be 'text': this server reads nothing else"
            raise PydanticCustomError("unsupported_parameter", message)
        return value


class CalledFunction(Body):
    """The function of a call that the model has made."""

    name: str
    arguments: str = Field(description="JSON, as text.")

    @property
    def parsed(self) -> Any:
        """The arguments as a value; as text if they are no JSON, or too much to go through."""
        try:
            return bounded(orjson.loads(self.arguments))
        except (orjson.JSONDecodeError, PydanticCustomError):
            return self.arguments


class ToolCall(Body):
    """A call that the model has made, in a message of its own."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One message of a conversation; ``developer`` is another name for ``system``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = None
    refusal: str | None = None
    content: Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = Field(
        None, validate_default=True
    )
    name: str | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None

    @field_validator("content", mode="before", json_schema_input_type=str | list[TextPart] | None)
    @classmethod
    def _as_parts(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("missing_required_parameter", "is required")
        if not isinstance(value, str | list | None):
            raise PydanticCustomError("invalid_value", "should be a string or a list of parts")
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @field_validator("function_call", "audio")
    @classmethod
    def _not_here(cls, value: object) -> object:
        if value is not None and value != []:
            raise PydanticCustomError("unsupported_parameter", "is not supported by this server")
        return value

    @field_validator("tool_calls")
    @classmethod
    def _of_the_model(
        cls, value: list[ToolCall] | None, info: ValidationInfo
    ) -> list[ToolCall] | None:
        if value and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("invalid_value", "should be in the assistant's messages only")
        return value

    @property
    def text(self) -> str:
        """The whole content; what the model refused with is its content, too."""
        if self.content is None:
            return self.refusal or ""
        return "".join(part.text for part in self.content)


def _not_too_many(value: object) -> object:
    # pydantic would look at each of the first `MAX_ITEMS` before it counts.
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        message = f"should have at most {MAX_ITEMS} items, not {len(value)}"
        raise PydanticCustomError("invalid_value", message)
    return value


def not_too_many_in_all(value: object) -> object:
    """Let several conversations pass if they have not too many messages together."""
    if isinstance(value, list):
        count = sum(len(conversation) for conversation in value if isinstance(conversation, list))
        if count > MAX_ITEMS:
            message = f"should have at most {MAX_ITEMS} messages in all, not {count}"
            raise PydanticCustomError("invalid_value", message)
    return value


# Checking takes time. `fail_fast`: a body of millions of wrong items is one error, not millions;
# `max_length`: nor are there millions of right ones, where each takes microseconds.
Conversation: TypeAlias = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_not_too_many),
]
