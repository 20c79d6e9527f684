"""Questions about tokens on the wire, in llama-server's form and in vLLM's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

from gateway.errors import ApiError
from gateway.openai.admission import check_ids
from gateway.openai.bodies import Body
from gateway.openai.prompts import question_id
from shared.errors import ErrorCode
from shared.messages import Detokenize, ModelInfo, Prepare, Prepared, Text

MOST_BYTES = 512 << 10
"""Of a text that is tokenized."""
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
        max_model_len: the context length of the model.
        with_pieces: whether ids come with their texts.
        with_strings: whether the texts come by themselves.
    """

    question: Prepare
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


def text_question(request: TokenizeRequest) -> Prepare:
    """What to ask about a text; its special tokens are some, unless the request says otherwise.

    Raises:
        ApiError: it is too long to be tokenized in a moment.
    """
    param = "content" if request.content is not None else "prompt"
    text = request.prompt if request.content is None else request.content
    assert text is not None, "it has one of them"
    n_bytes = len(text.encode())
    if n_bytes > MOST_BYTES:
        message = f"this is {n_bytes} bytes long; at most {MOST_BYTES} bytes are taken at once"
        raise ApiError(ErrorCode.BODY_TOO_LARGE, message)
    prompt = Text(text, parses_special=request.parse_special is not False)
    return Prepare(question_id(), prompt, param, begins=param != "content")


def text_asked(request: TokenizeRequest, question: Prepare, model: ModelInfo) -> TextAsked:
    """The question with what else a request wants."""
    begins = request.add_special
    if begins is None:
        begins = request.add_special_tokens
    with_pieces, with_strings = request.with_pieces is True, request.return_token_strs is True
    question = replace(
        question,
        begins=question.begins if begins is None else begins,
        wants_pieces=with_pieces or with_strings,
    )
    return TextAsked(question, model.n_ctx, with_pieces, with_strings)


def ids_asked(request: DetokenizeRequest, model: ModelInfo) -> Detokenize:
    """What to ask about token ids.

    Raises:
        ApiError: one of them stands for nothing.
    """
    check_ids(request.tokens, "tokens", model)
    return Detokenize(question_id(), tuple(request.tokens))


def tokenized(asked: TextAsked, answer: Prepared) -> TokenizeResponse:
    """The answer to a question about a text, in the form that was asked for."""
    tokens: list[int] | list[Piece] = list(answer.ids)
    if asked.with_pieces:
        pairs = zip(answer.ids, answer.pieces, strict=True)
        tokens = [Piece(id=token, piece=text) for token, text in pairs]
    response = TokenizeResponse(
        tokens=tokens, count=len(answer.ids), max_model_len=asked.max_model_len
    )
    if asked.with_strings:
        response["token_strs"] = list(answer.pieces)
    return response
