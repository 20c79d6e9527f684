"""What a text is in tokens, and tokens in text; no generation is needed for it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import orjson
from fastapi import APIRouter, Request, Response

from gateway.errors import ApiError
from gateway.openai.admission import check_model_name, loaded_model
from gateway.openai.prompts import chat_questions
from gateway.openai.requests import ChatRequest
from gateway.openai.schema import ERROR_RESPONSES, request_body
from gateway.openai.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    InputTokens,
    TemplateResponse,
    TextAsked,
    TokenizeRequest,
    TokenizeResponse,
    ids_asked,
    text_asked,
    text_field,
    text_question,
    tokenized,
)
from gateway.openai.tool_choice import tool_use
from gateway.openai.validation import chat_request, checked
from gateway.routes.body import json_object, read_body
from gateway.routes.deadlines import time_bounds
from gateway.routes.prepare import prepared
from gateway.serving import Serving, ServingConfig, serving_of
from shared.errors import ErrorCode
from shared.messages import Detokenize, ModelInfo, Prepare

Asked = TypeVar("Asked")
Read: TypeAlias = Callable[[Mapping[str, Any], ServingConfig, ModelInfo], Asked]
"""Makes of a body what it asks."""

router = APIRouter(tags=["tokens"])
_CHAT = {"messages": [{"role": "user", "content": "Tell me a story."}]}


@router.post(
    "/tokenize",
    response_model=TokenizeResponse,
    openapi_extra=request_body(TokenizeRequest, ChatRequest, example={"content": "Hello"}),
    responses=ERROR_RESPONSES,
)
async def tokenize(request: Request) -> Response:
    """Say which tokens a text has, or the prompt that a chat becomes.

    The text is `content`, as for llama-server, or `prompt`, as for vLLM; a chat is `messages`.
    """
    serving = serving_of(request)
    with time_bounds(request, serving.config).within():
        asked = await _read(request, serving, _text_asked)
        (answer,) = await prepared(request, serving.pool, [asked.question])
    return _json(tokenized(asked, answer))


@router.post(
    "/detokenize",
    response_model=DetokenizeResponse,
    openapi_extra=request_body(DetokenizeRequest, example={"tokens": [1, 2, 3]}),
    responses=ERROR_RESPONSES,
)
async def detokenize(request: Request) -> Response:
    """Say which text tokens stand for; control tokens are shown by their names."""
    serving = serving_of(request)
    with time_bounds(request, serving.config).within():
        question = await _read(request, serving, _ids_asked)
        (answer,) = await prepared(request, serving.pool, [question])
    return _json(DetokenizeResponse(content=answer.text, prompt=answer.text))


@router.post(
    "/apply-template",
    response_model=TemplateResponse,
    openapi_extra=request_body(ChatRequest, example=_CHAT),
    responses=ERROR_RESPONSES,
)
async def apply_template(request: Request) -> Response:
    """Say which prompt a chat becomes."""
    serving = serving_of(request)
    with time_bounds(request, serving.config).within():
        question = await _read(request, serving, _chat_question)
        (answer,) = await prepared(request, serving.pool, [replace(question, wants_text=True)])
    return _json(TemplateResponse(prompt=answer.text))


@router.post(
    "/v1/chat/completions/input_tokens",
    response_model=InputTokens,
    openapi_extra=request_body(ChatRequest, example=_CHAT),
    responses=ERROR_RESPONSES,
)
async def count_input_tokens(request: Request) -> Response:
    """Say how many tokens the prompt of a chat has; the body is that of the chat."""
    serving = serving_of(request)
    with time_bounds(request, serving.config).within():
        question = await _read(request, serving, _chat_question)
        (answer,) = await prepared(request, serving.pool, [question])
    return _json(InputTokens(object="response.input_tokens", input_tokens=len(answer.ids)))


async def _read(request: Request, serving: Serving, read: Read[Asked]) -> Asked:
    """What the body asks."""
    body = await read_body(request, serving)
    model = loaded_model(serving.pool.load())
    return read(json_object(body), serving.config, model)


def _text_asked(body: Mapping[str, Any], config: ServingConfig, model: ModelInfo) -> TextAsked:
    flags = checked(TokenizeRequest, body)
    check_model_name(flags.model, config)
    if text_field(body) == "messages":
        return text_asked(flags, _chat_question(body, config, model), model)
    return text_asked(flags, text_question(flags), model)


def _ids_asked(body: Mapping[str, Any], config: ServingConfig, model: ModelInfo) -> Detokenize:
    request = checked(DetokenizeRequest, body)
    check_model_name(request.model, config)
    return ids_asked(request, model)


def _chat_question(body: Mapping[str, Any], config: ServingConfig, model: ModelInfo) -> Prepare:
    """What to ask about the prompt that ``/v1/chat/completions`` would make of a body."""
    chat = chat_request(body)
    check_model_name(chat.model, config)
    last = chat.messages[-1]
    continues = last.role == "assistant" and not last.tool_calls
    # vLLM's two ways to say how a prompt ends; here it goes by the last message.
    for name, right in (
        ("add_generation_prompt", not continues),
        ("continue_final_message", continues),
    ):
        if body.get(name) not in (None, right):
            message = f"'{name}' is {str(right).lower()} here: it follows from the last message."
            raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, name)
    (question,) = chat_questions(chat, model, tool_use(chat))
    return question


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
