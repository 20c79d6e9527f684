"""Questions about tokens, in llama-server's form and in vLLM's; they need no generation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from gateway.ask import IdsPrompt, Prompt, text_prompt
from gateway.dialects import Endpoint
from gateway.dialects.chat import CHAT, ChatRequest
from gateway.dialects.fields import Body, checked
from gateway.errors import ApiError, refused
from shared.errors import ErrorCode
from shared.messages import Chat, Prepare, Prepared

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


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """What is asked of a prompt, or of token ids."""

    model: str | None
    prompt: Prompt
    options: Any = None  #: for the endpoint's own `TokenDialect.write`


@dataclass(frozen=True, kw_only=True)
class TokenDialect(Endpoint):
    """An endpoint that answers such questions."""

    tag: str = "tokens"
    read: Callable[[Mapping[str, Any]], TokenQuestion]
    write: Callable[[Any, Prepared, int], Any]  #: takes the options and the context length, too


def _read_text(body: Mapping[str, Any]) -> TokenQuestion:
    request, param = checked(TokenizeRequest, body), _text_field(body)
    if param == "messages":
        prompt = _chat(body)
    else:
        text = request.prompt if request.content is None else request.content
        parses_special = request.parse_special is not False
        prompt = text_prompt(text or "", param, parses_special=parses_special)
    begins = request.add_special
    if begins is None:
        begins = request.add_special_tokens
    asked = replace(
        prompt,
        begins=param != "content" if begins is None else begins,
        wants_pieces=request.with_pieces is True or request.return_token_strs is True,
    )
    return TokenQuestion(request.model, asked, request)


def _write_tokens(request: TokenizeRequest, found: Prepared, n_ctx: int) -> dict[str, Any]:
    tokens: list[Any] = list(found.ids)
    if request.with_pieces:
        pairs = zip(found.ids, found.pieces, strict=True)
        tokens = [{"id": token, "piece": text} for token, text in pairs]
    answer = {"tokens": tokens, "count": len(tokens), "max_model_len": n_ctx}
    if request.return_token_strs:
        answer["token_strs"] = list(found.pieces)
    return answer


def _read_ids(body: Mapping[str, Any]) -> TokenQuestion:
    request = checked(DetokenizeRequest, body)
    return TokenQuestion(request.model, IdsPrompt(request.tokens, "tokens"))


def _read_chat(body: Mapping[str, Any]) -> TokenQuestion:
    return TokenQuestion(body.get("model"), _chat(body))


def _read_template(body: Mapping[str, Any]) -> TokenQuestion:
    return TokenQuestion(body.get("model"), replace(_chat(body), wants_text=True))


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


def _chat(body: Mapping[str, Any]) -> Prepare:
    """The prompt that ``/v1/chat/completions`` would make of a body."""
    (prompt,) = CHAT.read(body).prompts
    assert isinstance(prompt, Prepare) and isinstance(prompt.prompt, Chat)
    last = prompt.prompt.messages[-1]
    continues = last["role"] == "assistant" and not last.get("tool_calls")
    # vLLM's two ways to say how a prompt ends; here it goes by the last message.
    for name, right in (
        ("add_generation_prompt", not continues),
        ("continue_final_message", continues),
    ):
        if body.get(name) not in (None, right):
            said = f"is {str(right).lower()} here: it follows from the last message"
            raise refused(name, said, ErrorCode.UNSUPPORTED_PARAMETER)
    return prompt


TOKENIZE = TokenDialect(
    path="/tokenize",
    description=(
        "Say which tokens a text has, or the prompt that a chat becomes.\n\n"
        "The text is `content`, as for llama-server, or `prompt`, as for vLLM; a chat is"
        " `messages`."
    ),
    bodies=(TokenizeRequest, ChatRequest),
    example={"content": "Hello"},
    answer="`tokens`, their `count`, and the context length as `max_model_len`.",
    read=_read_text,
    write=_write_tokens,
)
DETOKENIZE = TokenDialect(
    path="/detokenize",
    description="Say which text tokens stand for; control tokens are shown by their names.",
    bodies=(DetokenizeRequest,),
    example={"tokens": [1, 2, 3]},
    answer="The text, as `content` and as `prompt`.",
    read=_read_ids,
    write=lambda _, found, n_ctx: {"content": found.text, "prompt": found.text},
)
APPLY_TEMPLATE = TokenDialect(
    path="/apply-template",
    description="Say which prompt a chat becomes.",
    bodies=(ChatRequest,),
    example=CHAT.example,
    answer="The text, as `prompt`.",
    read=_read_template,
    write=lambda _, found, n_ctx: {"prompt": found.text},
)
INPUT_TOKENS = TokenDialect(
    path="/v1/chat/completions/input_tokens",
    description="Say how many tokens the prompt of a chat has; the body is that of the chat.",
    bodies=(ChatRequest,),
    example=CHAT.example,
    answer="Their number, as `input_tokens`.",
    read=_read_chat,
    write=lambda _, found, n_ctx: {
        "object": "response.input_tokens",
        "input_tokens": len(found.ids),
    },
)
TOKEN_DIALECTS = (TOKENIZE, DETOKENIZE, APPLY_TEMPLATE, INPUT_TOKENS)
