"""What requests for chats and completions have in common in OpenAI's API.

What cannot be honoured is refused, never ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import Field

from gateway.ask import Form, Limit, WantedForm
from gateway.dialects.fields import (
    INT64,
    Biases,
    Body,
    GuidedChoices,
    ResponseFormat,
    SchemaObject,
    StopStrings,
    TokenId,
    checked,
)
from gateway.errors import refused
from shared.errors import ErrorCode
from shared.grammar import GrammarKind
from shared.sampling import SamplingParams

UNSUPPORTED_UNLESS: dict[str, Sequence[object]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters of OpenAI's that this server lacks, with the values that ask for nothing.

One that a body defines is not lacking there.
"""

OTHER_NAMES = {
    "ebnf": "guided_grammar",
    "grammar": "guided_grammar",
    "guided_whitespace_pattern": None,
    "json_schema": "guided_json",
    "regex": "guided_regex",
    "structural_tag": None,
    "structured_outputs": "guided_json, guided_regex, guided_choice or guided_grammar",
}
"""What other servers call what an answer is bound to, and its name here, if it has one.

Of what OpenAI does not define, only this is refused: whoever sends it relies on it.
"""

_LEAVE_OUT = "is not supported here; leave it out"
SHORT_FORM_MAX_TOKENS = 250
"""The limit of a request that names no model and sets no limit."""


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
        None, ge=0, le=1, description="Keep the likeliest tokens that together are so likely."
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
    stop_token_ids: list[TokenId] | None = Field(
        None, max_length=64, description="Tokens that end the text, besides the model's own."
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


RequestT = TypeVar("RequestT", bound=GenerationRequest)


def read_request(model: type[RequestT], body: Mapping[str, Any]) -> RequestT:
    """A body that has been checked."""
    for name, neutral in UNSUPPORTED_UNLESS.items():
        value = None if name in model.model_fields else body.get(name)
        # 0 == False, but to ask for a number is not to ask for nothing.
        if value is not None and not any(type(value) is type(v) and value == v for v in neutral):
            raise refused(name, _LEAVE_OUT, ErrorCode.UNSUPPORTED_PARAMETER)
    for name, here in OTHER_NAMES.items():
        if body.get(name):  # clients of those servers send it empty, too
            sentence = f"is called {here} here" if here else _LEAVE_OUT
            raise refused(name, sentence, ErrorCode.UNSUPPORTED_PARAMETER)
    return checked(model, body)


def common_fields(
    request: GenerationRequest, form: Form, default_limit: int | None
) -> dict[str, Any]:
    """The fields of an `Ask` that all requests have."""
    limit = request.max_tokens
    if request.max_completion_tokens is not None:
        limit = request.max_completion_tokens
    is_default = limit is None
    if is_default:
        limit = SHORT_FORM_MAX_TOKENS if request.model is None else default_limit
    options, least = request.stream_options, request.min_tokens or 0
    if options is not None and form != "stream":
        raise refused("stream_options", "is allowed only with 'stream': true")
    if limit is not None and least > limit:
        raise refused("min_tokens", f"is {least}, more than the {limit} of 'max_tokens'")
    return {
        "model": request.model,
        "n": request.n or 1,
        "candidates": request.n or 1,
        "sampling": _sampling(request),
        "limit": Limit(limit, is_clamped=is_default),
        "stop": tuple(request.stop or ()),
        "stop_ids": tuple(request.stop_token_ids or ()),
        "min_tokens": least,
        "ignores_eog": request.ignore_eos is True,
        "constraints": tuple(_constraints(request)),
        "form": form,
        "include_usage": options is not None and options.include_usage is True,
    }


def form_of(request: GenerationRequest, short_form: Form) -> Form:
    """How the answer is given: as ``short_form`` if the request says nothing, not even a model."""
    if request.stream is not None:
        return "stream" if request.stream else "object"
    return short_form if request.model is None else "object"


def _sampling(request: GenerationRequest) -> SamplingParams:
    wanted = {
        name: value
        for name in asdict(SamplingParams())
        if (value := getattr(request, name)) is not None
    }
    if request.top_k is not None:
        wanted["top_k"] = max(request.top_k, 0)
    if request.top_p == 0:  # only the likeliest token
        wanted |= {"top_p": 1.0, "temperature": 0.0}
    biases = ((int(token), float(bias)) for token, bias in (request.logit_bias or {}).items())
    return SamplingParams(**{**wanted, "logit_bias": tuple(sorted(biases))})


def _constraints(request: GenerationRequest) -> list[WantedForm]:
    wanted: list[WantedForm] = []
    answer = request.response_format
    if answer is not None and answer.type != "text":
        path = "json_schema.schema" if answer.type == "json_schema" else "schema"
        kind = GrammarKind.JSON_SCHEMA
        wanted.append(
            WantedForm("response_format", kind, answer.wanted, path=f"response_format.{path}")
        )
    for param, kind in (
        ("guided_json", GrammarKind.JSON_SCHEMA),
        ("guided_regex", GrammarKind.REGEX),
        ("guided_choice", GrammarKind.CHOICE),
        ("guided_grammar", GrammarKind.LARK),
    ):
        if (source := getattr(request, param)) is not None:
            wanted.append(WantedForm(param, kind, source))
    return wanted
