"""Questions about tokens on the wire, in llama-server's form and in vLLM's."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

from gateway.chat.special import special_tokens
from gateway.errors import ApiError
from gateway.openai.admission import check_ids
from gateway.openai.bodies import Body
from gateway.openai.translate import Prompt
from shared.errors import ErrorCode
from shared.messages import Detokenize, ModelInfo, Tokenize, Tokens

TEXT_FIELDS = ("content", "prompt", "messages")
"""What ``/tokenize`` takes, one of them at a time."""


class TokenizeRequest(Body):
    """The body of ``/tokenize``, if it is not a chat."""

    model: str | None = None
    content: str | None = Field(None, description="The text, as llama-server has it.")
    prompt: str | None = Field(None, description="The text, as vLLM has it.")
    add_special: bool | None = Field(
        None,
        description="Put the token in front that begins a sequence, if the model has one. By"
        " default that is done with `prompt` and `messages`, and not with `content`.",
    )
    add_special_tokens: bool | None = Field(None, description="The same, as vLLM calls it.")
    parse_special: bool | None = Field(
        None, description="Special tokens in the text are some; true by default."
    )
    with_pieces: bool | None = Field(None, description="Give each token's text with its id.")
    return_token_strs: bool | None = Field(None, description="Give the texts in `token_strs`.")


class DetokenizeRequest(Body):
    """The body of ``/detokenize``."""

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


class Piece(TypedDict):
    """A token and what it stands for; what is no character alone is a replacement character."""

    id: int
    piece: str


class TokenizeResponse(TypedDict):
    """The answer of ``/tokenize``."""

    tokens: list[int] | list[Piece]
    count: int
    max_model_len: int
    token_strs: NotRequired[list[str]]


class DetokenizeResponse(TypedDict):
    """The answer of ``/detokenize``: the text, under either name."""

    content: str
    prompt: str


class TemplateResponse(TypedDict):
    """The answer of ``/apply-template``."""

    prompt: str


class InputTokens(TypedDict):
    """The answer of ``/v1/chat/completions/input_tokens``."""

    object: Literal["response.input_tokens"]
    input_tokens: int


@dataclass(frozen=True, slots=True)
class TextAsked:
    """A question about a text.

    Attributes:
        question: for the pool.
        param: the field that the text comes from.
        max_model_len: the context length of the model.
        with_pieces: whether ids come with their texts.
        with_strings: whether the texts come by themselves.
    """

    question: Tokenize
    param: str
    max_model_len: int
    with_pieces: bool = False
    with_strings: bool = False


def text_field(body: Mapping[str, Any]) -> str:
    """The one field of `TEXT_FIELDS` that a body has.

    Raises:
        ApiError: it has none, or several.
    """
    given = [name for name in TEXT_FIELDS if body.get(name) is not None]
    if not given:
        message = "'content' is required, or 'prompt', or 'messages'."
        raise ApiError(ErrorCode.MISSING_PARAMETER, message, "content")
    if len(given) > 1:
        message = f"There is '{given[0]}' already; leave '{given[1]}' out."
        raise ApiError(ErrorCode.INVALID_VALUE, message, given[1])
    return given[0]


def text_prompt(request: TokenizeRequest, model: ModelInfo) -> Prompt:
    """The text of a request; its special tokens are some, unless it says otherwise."""
    text = request.prompt if request.content is None else request.content
    assert text is not None, "it has one of them"
    if request.parse_special is False:
        return (text,)
    return special_tokens(model.special_tokens).split(text)


def text_asked(request: TokenizeRequest, prompt: Prompt, param: str, model: ModelInfo) -> TextAsked:
    """What to ask about the prompt that a request has, or that was made of its chat."""
    begins = request.add_special
    if begins is None:
        begins = request.add_special_tokens
    with_pieces, with_strings = request.with_pieces is True, request.return_token_strs is True
    question = Tokenize(
        question_id(),
        prompt,
        begins=param != "content" if begins is None else begins,
        wants_texts=with_pieces or with_strings,
    )
    return TextAsked(question, param, model.n_ctx, with_pieces, with_strings)


def ids_asked(request: DetokenizeRequest, model: ModelInfo) -> Detokenize:
    """What to ask about token ids.

    Raises:
        ApiError: one of them stands for nothing.
    """
    check_ids(request.tokens, "tokens", model)
    return Detokenize(question_id(), tuple(request.tokens))


def told(answer: Tokens, param: str) -> Tokens:
    """The answer, if it is one.

    Raises:
        ApiError: it is none; ``param`` is what was asked about.
    """
    if answer.error:
        raise ApiError(ErrorCode.INVALID_PROMPT, f"'{param}': {answer.error}.", param)
    return answer


def tokenized(asked: TextAsked, answer: Tokens) -> TokenizeResponse:
    """The answer to a question about a text, in the form that was asked for."""
    tokens: list[int] | list[Piece] = list(answer.ids)
    if asked.with_pieces:
        pairs = zip(answer.ids, answer.texts, strict=True)
        tokens = [Piece(id=token, piece=text) for token, text in pairs]
    response = TokenizeResponse(
        tokens=tokens, count=len(answer.ids), max_model_len=asked.max_model_len
    )
    if asked.with_strings:
        response["token_strs"] = list(answer.texts)
    return response


def question_id() -> str:
    """A fresh name for a question."""
    return f"tokens-{uuid.uuid4().hex}"
