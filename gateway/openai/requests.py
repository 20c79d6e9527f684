"""The bodies of completions and chats, checked strictly.

Every optional field may be null, which means its default.
"""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from gateway.openai.bodies import Body
from gateway.openai.conversation import Conversation, not_too_many_in_all
from gateway.openai.structured import GuidedChoices, ResponseFormat, SchemaObject
from gateway.openai.tools import ToolChoice, Tools

INT64 = 2**63

MAX_BIASES = 1024
"""The most entries of ``logit_bias``."""

MOST_LOGPROBS = 20
"""The most alternatives of a token that are told of."""


def _listed(value: object) -> object:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_value", "should be a string or a list of strings")
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    """Any of the forms of a prompt, as a list of prompts."""
    if isinstance(value, str) or _are_ids(value):
        return [value]
    if isinstance(value, list) and value:
        return value
    message = "should be a string, a list of token ids, or a list of either, and not empty"
    raise PydanticCustomError("invalid_value", message)


def _prompt(value: object) -> object:
    if isinstance(value, str) or _are_ids(value):
        return value
    message = "should be a string or a list of token ids, and not empty"
    raise PydanticCustomError("invalid_value", message)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _biases(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        message = f"should have at most {MAX_BIASES} token ids, not {len(value)}"
        raise PydanticCustomError("invalid_value", message)
    for token in value:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            message = f"should have token ids as keys, not {token[:20]!r}"
            raise PydanticCustomError("invalid_value", "{text}", {"text": message})
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
_PromptList: TypeAlias = Annotated[list[str] | list[list[int]], Field(min_length=1)]
Prompts: TypeAlias = Annotated[
    list[Annotated[str | list[int], PlainValidator(_prompt)]],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(_prompts, json_schema_input_type=str | list[int] | _PromptList),
]
TokenId: TypeAlias = Annotated[int, Field(ge=0)]
Biases: TypeAlias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_biases)
]


class StreamOptions(Body):
    """What a stream carries besides the text."""

    include_usage: bool | None = Field(None, description="End with a chunk that has the usage.")


class GenerationRequest(Body):
    """What all endpoints have in common."""

    model: str | None = Field(
        None, description="The model's name. Without it the short form of the API applies."
    )
    max_tokens: int | None = Field(None, ge=1, description="The most tokens to generate.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Wins over `max_tokens`.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the likeliest tokens that together are so likely."
    )
    top_k: int | None = Field(
        None, ge=-1, description="Keep so many of the likeliest tokens; 0 and -1 keep all."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than this part of the likeliest."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Taken off the logit of each token generated so far."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="The same, once for each time it was generated."
    )
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=10, description="Makes tokens of the prompt and the text less likely."
    )
    seed: int | None = Field(
        None,
        ge=-INT64,
        lt=INT64,
        description="Same seed, same text. Any 64-bit integer; choice k of n draws with seed + k.",
    )
    stop: StopStrings | None = Field(None, description="The text ends before any of these.")
    n: int | None = Field(None, ge=1, description="How many choices to generate for each prompt.")
    logit_bias: Biases | None = Field(
        None, description="Token ids, and what is added to their logits, -100 to 100."
    )
    min_tokens: int | None = Field(
        None, ge=0, description="Until there are so many tokens, nothing ends the text."
    )
    ignore_eos: bool | None = Field(None, description="The model cannot end the text by itself.")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="Tokens that end the text, besides the model's own."
    )
    response_format: ResponseFormat | None = Field(
        None, description="What the text is bound to be: text, any JSON object, or a schema's."
    )
    guided_json: SchemaObject | None = Field(
        None, description="A JSON schema that the text is bound to; as an object or as text."
    )
    guided_regex: str | None = Field(
        None, min_length=1, description="A regular expression that matches the whole text."
    )
    guided_choice: GuidedChoices | None = Field(None, description="What the text is one of.")
    guided_grammar: str | None = Field(
        None, min_length=1, description="A grammar of the text, in Lark or GBNF."
    )
    stream: bool | None = Field(None, description="Send the text as it is generated.")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`: end a stream with a chunk that has the usage."
    )

    @property
    def token_limit(self) -> int | None:
        """The most tokens that the client wants, if it says."""
        limit = self.max_completion_tokens
        return self.max_tokens if limit is None else limit

    @property
    def candidates(self) -> int:
        """How many completions are generated for each prompt."""
        return self.n or 1


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Prompts = Field(description="Text, token ids, or a list of either.")
    max_tokens: int | None = Field(None, ge=0, description="The most tokens to generate.")
    suffix: str | None = Field(
        None, description="What comes after the completion, for models that fill in the middle."
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LOGPROBS,
        description="How likely each token was, and so many of its alternatives, by the model's"
        " own distribution: before temperature, penalties and biases.",
    )
    best_of: int | None = Field(
        None, ge=1, description="Generate so many, and give the `n` likeliest per token."
    )

    @property
    def candidates(self) -> int:
        """How many completions are generated for each prompt."""
        return max(self.n or 1, self.best_of or 1)


class _ChatFields(GenerationRequest):
    """What the chat endpoints have in common."""

    logprobs: bool | None = Field(
        None,
        description="Tell how likely each token was by the model's own distribution: before"
        " temperature, penalties and biases.",
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="And so many of its alternatives."
    )
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None, description="`none`, `auto`, `required`, a function, or allowed ones."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether an answer may have several calls; true if not given."
    )


class ChatRequest(_ChatFields):
    """The body of ``/v1/chat/completions``."""

    messages: Conversation = Field(
        description="The conversation. A last message of the assistant is gone on with."
    )

    @property
    def conversations(self) -> list[Conversation]:
        """The conversation, as a list of one."""
        return [self.messages]


class ManyChatsRequest(_ChatFields):
    """The body of ``/v2/chat/completions`` with several conversations."""

    messages: Annotated[
        list[Conversation],
        Field(min_length=1, fail_fast=True),
        BeforeValidator(not_too_many_in_all),
    ]

    @property
    def conversations(self) -> list[Conversation]:
        """The conversations, in order."""
        return self.messages
