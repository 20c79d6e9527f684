"""Questions about tokens, in llama-server's form and in vLLM's; they need no generation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

from gateway.ask import NO_TOOLS, ChatPrompt, Prompt, TextPrompt, ToolUse
from gateway.dialects import Endpoint
from gateway.dialects.chat import CHAT, EXAMPLE, ChatRequest
from gateway.dialects.fields import Body, checked, refused
from gateway.errors import ApiError
from shared.errors import ErrorCode

TEXT_FIELDS = ("content", "prompt", "messages")
"""What ``/tokenize`` takes, one of them at a time."""
_CHAT = {"messages": EXAMPLE["messages"]}


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


class TokenPiece(TypedDict):
    """A token and what it stands for; what is no character alone is a replacement character."""

    id: int
    piece: str


class TokenizeResponse(TypedDict):
    """The answer of ``/tokenize``."""

    tokens: list[int] | list[TokenPiece]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenQuestion:
    """What is asked of a prompt, or of token ids."""

    model: str | None
    param: str  #: the field that it is about
    prompt: Prompt | None = None
    ids: tuple[int, ...] = ()  #: where there is no prompt
    tools: ToolUse = NO_TOOLS
    begins: bool = True  #: whether the token that begins a sequence is put in front
    wants_pieces: bool = False  #: the text of each token
    wants_text: bool = False  #: the text of the prompt
    options: Any = None  #: for the endpoint's own `TokenDialect.write`


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  #: what each token stands for, if that was asked for
    text: str  #: of the prompt, or what the ids stand for together
    n_ctx: int  #: the context length of the model


@dataclass(frozen=True, slots=True)
class TokenDialect:
    """An endpoint that answers such questions."""

    endpoint: Endpoint
    read: Callable[[Mapping[str, Any]], TokenQuestion]
    write: Callable[[TokenQuestion, Known], Any]


def _read_text(body: Mapping[str, Any]) -> TokenQuestion:
    request, param = checked(TokenizeRequest, body), _text_field(body)
    begins = request.add_special
    if begins is None:
        begins = request.add_special_tokens
    prompt: Prompt
    if param == "messages":
        prompt, tools = _chat(body)
    else:
        text = request.prompt if request.content is None else request.content
        has_specials = request.parse_special is not False
        prompt = TextPrompt(text or "", has_specials=has_specials, param=param)
        tools = NO_TOOLS
    return TokenQuestion(
        model=request.model,
        param=param,
        prompt=prompt,
        tools=tools,
        begins=param != "content" if begins is None else begins,
        wants_pieces=request.with_pieces is True or request.return_token_strs is True,
        options=request,
    )


def _write_tokens(question: TokenQuestion, known: Known) -> TokenizeResponse:
    request: TokenizeRequest = question.options
    tokens: list[int] | list[TokenPiece] = list(known.ids)
    if request.with_pieces:
        pairs = zip(known.ids, known.texts, strict=True)
        tokens = [TokenPiece(id=token, piece=text) for token, text in pairs]
    response = TokenizeResponse(tokens=tokens, count=len(known.ids), max_model_len=known.n_ctx)
    if request.return_token_strs:
        response["token_strs"] = list(known.texts)
    return response


def _read_ids(body: Mapping[str, Any]) -> TokenQuestion:
    request = checked(DetokenizeRequest, body)
    return TokenQuestion(model=request.model, param="tokens", ids=tuple(request.tokens))


def _read_chat(body: Mapping[str, Any], *, wants_text: bool = False) -> TokenQuestion:
    prompt, tools = _chat(body)
    return TokenQuestion(
        model=body.get("model"), param="messages", prompt=prompt, tools=tools, wants_text=wants_text
    )


def _text_field(body: Mapping[str, Any]) -> str:
    """The one field of `TEXT_FIELDS` that a body has."""
    present = [name for name in TEXT_FIELDS if body.get(name) is not None]
    if not present:
        message = "'content' is required, or 'prompt', or 'messages'."
        raise ApiError(ErrorCode.MISSING_PARAMETER, message, "content")
    if len(present) > 1:
        message = f"There is '{present[0]}' already; leave '{present[1]}' out."
        raise ApiError(ErrorCode.INVALID_VALUE, message, present[1])
    return present[0]


def _chat(body: Mapping[str, Any]) -> tuple[ChatPrompt, ToolUse]:
    """The prompt that ``/v1/chat/completions`` would make of a body."""
    ask = CHAT.read(body)
    (prompt,) = ask.prompts
    assert isinstance(prompt, ChatPrompt)
    last = prompt.messages[-1]
    continues = last["role"] == "assistant" and not last.get("tool_calls")
    # vLLM's two ways to say how a prompt ends; here it goes by the last message.
    for name, right in (
        ("add_generation_prompt", not continues),
        ("continue_final_message", continues),
    ):
        if body.get(name) not in (None, right):
            said = f"is {str(right).lower()} here: it follows from the last message"
            raise refused(name, said, ErrorCode.UNSUPPORTED_PARAMETER)
    return prompt, ask.tools


TOKENIZE = TokenDialect(
    Endpoint(
        path="/tokenize",
        name="tokenize",
        tag="tokens",
        description=(
            "Say which tokens a text has, or the prompt that a chat becomes.\n\n"
            "The text is `content`, as for llama-server, or `prompt`, as for vLLM; a chat is"
            " `messages`."
        ),
        bodies=(TokenizeRequest, ChatRequest),
        example={"content": "Hello"},
        answer=TokenizeResponse,
    ),
    _read_text,
    _write_tokens,
)
DETOKENIZE = TokenDialect(
    Endpoint(
        path="/detokenize",
        name="detokenize",
        tag="tokens",
        description="Say which text tokens stand for; control tokens are shown by their names.",
        bodies=(DetokenizeRequest,),
        example={"tokens": [1, 2, 3]},
        answer=DetokenizeResponse,
    ),
    _read_ids,
    lambda question, known: DetokenizeResponse(content=known.text, prompt=known.text),
)
APPLY_TEMPLATE = TokenDialect(
    Endpoint(
        path="/apply-template",
        name="apply_template",
        tag="tokens",
        description="Say which prompt a chat becomes.",
        bodies=(ChatRequest,),
        example=_CHAT,
        answer=TemplateResponse,
    ),
    partial(_read_chat, wants_text=True),
    lambda question, known: TemplateResponse(prompt=known.text),
)
INPUT_TOKENS = TokenDialect(
    Endpoint(
        path="/v1/chat/completions/input_tokens",
        name="count_input_tokens",
        tag="tokens",
        description="Say how many tokens the prompt of a chat has; the body is that of the chat.",
        bodies=(ChatRequest,),
        example=_CHAT,
        answer=InputTokens,
    ),
    _read_chat,
    lambda question, known: InputTokens(
        object="response.input_tokens", input_tokens=len(known.ids)
    ),
)
TOKEN_DIALECTS = (TOKENIZE, DETOKENIZE, APPLY_TEMPLATE, INPUT_TOKENS)
