"""``/v1/chat/completions`` and ``/v2/chat/completions``: conversations in, answers out."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fastapi import APIRouter, Request, Response

from gateway.openai.admission import check_fan_out, check_model_name, check_open, loaded_model
from gateway.openai.parameters import check_token_ids
from gateway.openai.prompts import chat_questions
from gateway.openai.requests import ChatRequest, ManyChatsRequest
from gateway.openai.responses import ChatCompletion
from gateway.openai.schema import request_body, stream_or
from gateway.openai.tool_choice import bound_of, tool_use
from gateway.openai.translate import check_answer, plan_answer
from gateway.openai.validation import chat_request, chats_request
from gateway.routes.answer import answer
from gateway.routes.body import json_object, read_body
from gateway.routes.deadlines import time_bounds
from gateway.routes.prepare import prepared
from gateway.serving import serving_of

Check: TypeAlias = Callable[[Mapping[str, Any]], ChatRequest | ManyChatsRequest]

router = APIRouter(tags=["chat"])
_EXAMPLE = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 100}
_RESPONSES = stream_or(ChatCompletion, "The answer, in the form that was asked for.")


@router.post(
    "/v1/chat/completions",
    openapi_extra=request_body(ChatRequest, example=_EXAMPLE),
    responses=_RESPONSES,
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation.

    Without `model` in the body, the answer is streamed unless `stream` is false.
    """
    return await _chat(request, chat_request)


@router.post(
    "/v2/chat/completions",
    openapi_extra=request_body(ChatRequest, ManyChatsRequest, example=_EXAMPLE),
    responses=_RESPONSES,
)
async def many_chat_completions(request: Request) -> Response:
    """Answer one conversation or many at once.

    `messages` may be a list of conversations. Each becomes a choice; they run side by side, and
    in a stream their chunks interleave, told apart by `index`.
    """
    return await _chat(request, chats_request)


async def _chat(request: Request, check: Check) -> Response:
    serving = serving_of(request)
    config, bounds = serving.config, time_bounds(request, serving.config)
    with bounds.within():
        content = await read_body(request, serving)
        load = serving.pool.load()
        check_open(load)
        body = check(json_object(content))
        check_model_name(body.model, config)
        n_chats = len(body.conversations)
        check_fan_out(n_chats, body.candidates, ("messages", "n"), config.workers, load)
        model = loaded_model(load)
        check_token_ids(body, model)
        check_answer(body)
        use = tool_use(body)
        bound = bound_of(body, use)
        questions = chat_questions(body, model, use, wants_text=config.log_prompts)
        prompts = await prepared(request, serving.pool, questions, bound)
        plan = plan_answer(body, prompts, config, model, bound, calls_tools=bool(use.tools))
    return await answer(request, serving, plan, bounds)
