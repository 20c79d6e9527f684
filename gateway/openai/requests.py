"""The request bodies, checked strictly.

Every optional field may be null, which means its default.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

INT64 = 2**63

MAX_ITEMS = 10_000
"""The most messages in a conversation, and parts in a message."""


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class TextPart(_Body):
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


class Message(_Body):
    """One message of a conversation; ``developer`` is another name for ``system``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = Field(
        None, validate_default=True
    )
    tool_calls: Any = None
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

    @field_validator("tool_calls", "function_call", "audio")
    @classmethod
    def _not_yet(cls, value: object) -> object:
        if value is not None and value != []:
            raise PydanticCustomError("unsupported_parameter", "is not supported by this server")
        return value

    @property
    def text(self) -> str:
        """The whole content."""
        return "".join(part.text for part in self.content or ())


def _listed(value: object) -> object:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_value", "should be a string or a list of strings")
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        message = "should be text: token ids are not supported by this server"
        raise PydanticCustomError("unsupported_parameter", message)
    return _listed(value)


def _not_too_many(value: object) -> object:
    # pydantic would look at each of the first `MAX_ITEMS` before it counts.
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        message = f"should have at most {MAX_ITEMS} items, not {len(value)}"
        raise PydanticCustomError("invalid_value", message)
    return value


def _not_too_many_in_all(value: object) -> object:
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
Prompts: TypeAlias = Annotated[
    list[str],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(
        _prompts, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
    ),
]
StopString: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings: TypeAlias = Annotated[
    list[StopString],
    Field(max_length=16, fail_fast=True),
    BeforeValidator(
        _listed,
        json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=16)],
    ),
]


class StreamOptions(_Body):
    """What a stream carries besides the text."""

    include_usage: bool | None = Field(None, description="End with a chunk that has the usage.")


class GenerationRequest(_Body):
    """What all endpoints have in common."""

    model: str | None = Field(
        None, description="The model's name. Without it the short form of the API applies."
    )
    max_tokens: int | None = Field(None, ge=1, description="The most tokens to generate.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Wins over `max_tokens`.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1 keep all tokens.")
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, description="1 is off.")
    seed: int | None = Field(
        None,
        ge=-INT64,
        lt=INT64,
        description="Same seed, same text. Any 64-bit integer; choice k of n draws with seed + k.",
    )
    stop: StopStrings | None = Field(None, description="The text ends before any of these.")
    n: int | None = Field(None, ge=1, description="How many choices to generate for each prompt.")
    stream: bool | None = Field(None, description="Send the text as it is generated.")
    stream_options: StreamOptions | None = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens that the client wants, if it says."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Prompts
    suffix: str | None = Field(
        None, description="What comes after the completion, for models that fill in the middle."
    )


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: Conversation

    @property
    def conversations(self) -> list[Conversation]:
        """The conversation, as a list of one."""
        return [self.messages]


class ManyChatsRequest(GenerationRequest):
    """The body of ``/v2/chat/completions`` with several conversations."""

    messages: Annotated[
        list[Conversation],
        Field(min_length=1, fail_fast=True),
        BeforeValidator(_not_too_many_in_all),
    ]

    @property
    def conversations(self) -> list[Conversation]:
        """The conversations, in order."""
        return self.messages
