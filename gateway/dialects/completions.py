"""``/v1/completions``: text in, its continuation out."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator

from gateway.answer.pieces import Begun, Choice, Ended, Piece, Text, Usage, best
from gateway.ask import Ask, IdsPrompt, Prompt, text_prompt
from gateway.dialects import Dialect, Header
from gateway.dialects.fields import MOST_INPUTS, MOST_LOGPROBS, check_count, wrong
from gateway.dialects.openai_answer import Json, OpenAiWriter, TextLogprobsFold, joined
from gateway.dialects.openai_request import (
    GenerationRequest,
    common_fields,
    form_of,
    read_request,
)
from gateway.errors import refused

_DEFAULT_MAX_TOKENS = 16  # as OpenAI has it


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompts(value: object) -> object:
    """Any of the forms of a prompt, as a list of prompts."""
    if isinstance(value, str) or _are_ids(value):
        return [value]
    if isinstance(value, list) and value:
        check_count(value, MOST_INPUTS)
        return value
    raise wrong("should be a string, a list of token ids, or a list of either, and not empty")


def _prompt(value: object) -> object:
    if isinstance(value, str) or _are_ids(value):
        return value
    raise wrong("should be a string or a list of token ids, and not empty")


Prompts: TypeAlias = Annotated[
    list[Annotated[str | list[int], PlainValidator(_prompt)]],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(
        _prompts,
        json_schema_input_type=str
        | list[int]
        | Annotated[list[str] | list[list[int]], Field(min_length=1)],
    ),
]


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Prompts = Field(
        description=f"Text, token ids, or a list of up to {MOST_INPUTS} of either."
    )
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


class CompletionWriter(OpenAiWriter):
    """Writes `CreateCompletionResponse` of OpenAI, also as chunks, or the bare text."""

    chunk_kind = "text_completion"

    def __init__(self, ask: Ask, header: Header) -> None:
        super().__init__(ask, header)
        self._ask = ask
        self._folds = [TextLogprobsFold() for _ in self.choices]

    def choice(self, index: int, piece: Piece) -> Json | None:
        fold, logprobs = self._folds[index], None
        match piece:
            case Text():
                if self.tells_logprobs:
                    logprobs = fold.feed(piece.logprobs)
                return _choice(index, piece.text, None, logprobs)
            case Begun() if piece.echo:
                if self.tells_logprobs:
                    logprobs = fold.feed_echo(piece.echo, piece.echo_logprobs)
                return _choice(index, piece.echo, None, logprobs)
            case Ended():
                return _choice(index, "", piece.reason, None)
            case _:
                return None

    def whole(self, usage: Usage) -> Json | str | list[str]:
        choices = best(self.choices, self._ask.candidates, self._ask.n)
        if self._ask.form == "text":
            texts = [choice.text for choice in choices]
            return texts[0] if len(texts) == 1 else texts
        shown = [
            _choice(index, choice.text, choice.finish_reason, self._logprobs(choice))
            for index, choice in enumerate(choices)
        ]
        return self.object(self.chunk_kind, shown, usage)

    def _logprobs(self, choice: Choice) -> Json | None:
        if not self.tells_logprobs:
            return None
        fold, begun = TextLogprobsFold(), choice.begun
        return joined([fold.feed_echo(begun.echo, begun.echo_logprobs), fold.feed(choice.logprobs)])


def _choice(index: int, text: str, reason: str | None, logprobs: Json | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _read(body: Mapping[str, Any]) -> Ask:
    request = read_request(CompletionRequest, body)
    form = form_of(request, "text")
    fields = common_fields(request, form, _DEFAULT_MAX_TOKENS)
    n, best_of = request.n or 1, request.best_of or request.n or 1
    if best_of < n:
        raise refused("best_of", f"is {best_of}, fewer than the {n} choices of 'n'")
    if best_of > n and form == "stream":
        said = "more than 'n' cannot be streamed: the best is known at the end"
        raise refused("best_of", said)
    if request.echo and request.suffix:
        raise refused("echo", "and 'suffix' exclude each other")
    fields |= {"candidates": best_of, "count_param": "best_of" if best_of > n else "n"}
    return Ask(
        prompts=tuple(_prompts_of(request)),
        logprobs=request.logprobs,
        echoes=request.echo is True,
        **fields,
    )


def _prompts_of(request: CompletionRequest) -> Sequence[Prompt]:
    prompts: list[Prompt] = []
    for place, prompt in enumerate(request.prompt):
        param = "prompt" if len(request.prompt) == 1 else f"prompt[{place}]"
        if isinstance(prompt, str):
            prompts.append(text_prompt(prompt, param, request.suffix or ""))
        elif request.suffix:
            raise refused("suffix", "is for prompts of text, not of token ids")
        else:
            prompts.append(IdsPrompt(prompt, param))
    return prompts


COMPLETIONS = Dialect(
    path="/v1/completions",
    tag="completions",
    description=(
        "Continue a text, or with `suffix` fill in what lies between the two.\n\n"
        "Without `model` in the body, the answer is the continuation alone, as a JSON string."
    ),
    bodies=(CompletionRequest,),
    example={"prompt": "Once upon a time"},
    answer="OpenAI's `CreateCompletionResponse`; without `model` the text alone.",
    streams=True,
    id_prefix="cmpl",
    read=_read,
    writer=CompletionWriter,
)
