"""The conversations and the tools of OpenAI's chats, and what they are in no dialect."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gateway.ask import NO_TOOLS, Function, ToolUse
from gateway.dialects.fields import MAX_ITEMS, Body, bounded, check_count, wrong
from gateway.errors import excerpt, refused
from shared.errors import ErrorCode

MOST_TOOLS = 128
"""The most functions of a request."""


def _only(*types: str, because: str) -> BeforeValidator:
    """Says of all other types of something why they are not supported."""

    def check(value: object) -> object:
        if isinstance(value, str) and value not in types:
            message = f"should be '{types[0]}': this server {because}"
            raise wrong(message, ErrorCode.UNSUPPORTED_PARAMETER)
        return value

    return BeforeValidator(check)


class TextPart(Body):
    """A piece of a message's content; what the model refused with is text, too."""

    type: Annotated[
        Literal["text", "refusal"], _only("text", "refusal", because="reads nothing else")
    ]
    text: str


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
            raise wrong("is required", ErrorCode.MISSING_PARAMETER)
        if not isinstance(value, str | list | None):
            raise wrong("should be a string or a list of parts")
        if isinstance(value, list):
            return [_said_of_refusal(part) for part in value]
        return value if value is None else [{"type": "text", "text": value}]

    @field_validator("function_call", "audio")
    @classmethod
    def _not_here(cls, value: object) -> object:
        if value is not None and value != []:
            raise wrong("is not supported by this server", ErrorCode.UNSUPPORTED_PARAMETER)
        return value

    @field_validator("tool_calls")
    @classmethod
    def _of_the_model(
        cls, value: list[ToolCall] | None, info: ValidationInfo
    ) -> list[ToolCall] | None:
        if value and info.data.get("role", "assistant") != "assistant":
            raise wrong("should be in the assistant's messages only")
        return value

    @property
    def text(self) -> str:
        """The whole content; what the model refused with is its content, too."""
        if self.content is None:
            return self.refusal or ""
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it, which have never heard of ``developer``."""
        role = "system" if self.role == "developer" else self.role
        shown: dict[str, Any] = {"role": role, "content": self.text}
        if self.name is not None:
            shown["name"] = self.name
        if self.tool_call_id is not None:
            shown["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            shown["tool_calls"] = [_called(call) for call in self.tool_calls]
        return shown


def _said_of_refusal(part: object) -> object:
    """A part of type ``refusal``, which has its text in a field of that name."""
    if isinstance(part, dict) and part.get("type") == "refusal" and "refusal" in part:
        return {**part, "text": part["refusal"]}
    return part


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.parsed}
    name = {} if call.id is None else {"id": call.id}
    return {"type": "function", "function": function, **name}


def _not_too_many(value: object) -> object:
    # pydantic would look at each of the first `MAX_ITEMS` before it counts.
    if isinstance(value, list):
        check_count(value, MAX_ITEMS)
    return value


def _not_too_many_in_all(value: object) -> object:
    if isinstance(value, list):
        count = sum(len(conversation) for conversation in value if isinstance(conversation, list))
        if count > MAX_ITEMS:
            raise wrong(f"should have at most {MAX_ITEMS} messages in all, not {count}")
    return value


# Checking takes time. `fail_fast`: a body of millions of wrong items is one error, not millions;
# `max_length`: nor are there millions of right ones, where each takes microseconds.
Conversation: TypeAlias = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_not_too_many),
]
Conversations: TypeAlias = Annotated[
    list[Conversation],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(_not_too_many_in_all),
]


class FunctionDefinition(Body):
    """A function: its name, and a JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    strict: bool | None = Field(
        None,
        description="Arguments follow all of their schema, or it is refused; else all that can be.",
    )
    parameters: dict[str, Any] | None = None

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_an_object(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("type", "object") != "object":
            raise wrong("should describe an object: arguments have names")
        return bounded(value)


class Tool(Body):
    """Something that the model may use; functions are all there is."""

    type: Annotated[Literal["function"], _only("function", because="knows no other tools")]
    function: FunctionDefinition


class FunctionName(Body):
    """Names a function of the request."""

    name: str


class NamedTool(Body):
    """A tool of the request."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    """Some tools of the request."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS)]


class ChosenTools(Body):
    """Which tools are to be used: a certain one, or some of them."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
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
    raise wrong(
        "should be 'none', 'auto', 'required', {'type': 'function', 'function': {'name': ...}}"
        " or {'type': 'allowed_tools', 'allowed_tools': {'mode': ..., 'tools': [...]}}"
    )


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)]
ToolChoice: TypeAlias = Annotated[
    Literal["none", "auto", "required"] | ChosenTools,
    PlainValidator(
        _choice, json_schema_input_type=Literal["none", "auto", "required"] | ChosenTools
    ),
]


def tool_use(
    tools: Sequence[Tool],
    choice: Literal["none", "auto", "required"] | ChosenTools | None,
    *,
    is_parallel: bool,
) -> ToolUse:
    """Which of the tools an answer may use."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise refused("tool_choice", "chooses a tool, but 'tools' has none")
        return NO_TOOLS
    functions: dict[str, Function] = {}
    for place, tool in enumerate(tools):
        name, param = tool.function.name, f"tools[{place}].function"
        if name in functions:
            raise refused(f"{param}.name", f"is the second that is called '{name}'")
        functions[name] = Function(
            name,
            tool.function.description,
            tool.function.parameters,
            tool.function.strict is True,
            f"{param}.parameters",
        )
    if choice == "none":
        return NO_TOOLS
    if choice is None or isinstance(choice, str):
        return ToolUse(tuple(functions.values()), choice == "required", is_parallel)
    if choice.function is not None and choice.type == "function":
        return ToolUse(_chosen(functions, [choice.function.name]), True, False)
    assert choice.allowed_tools is not None, "it was checked"
    allowed = choice.allowed_tools
    chosen = _chosen(functions, [tool.function.name for tool in allowed.tools])
    return ToolUse(chosen, allowed.mode == "required", is_parallel)


def _chosen(functions: dict[str, Function], names: Sequence[str]) -> tuple[Function, ...]:
    for name in names:
        if name not in functions:
            raise refused(
                "tool_choice",
                f"names the function '{excerpt(name)}', but 'tools' has only"
                f" {excerpt(', '.join(functions))}",
            )
    return tuple(functions[name] for name in dict.fromkeys(names))
