"""``/v1/chat/completions`` and ``/v2/chat/completions``: conversations in, answers out."""

from fastapi import APIRouter, Request, Response

from gateway.chat.choice import choose_template
from gateway.chat.rendering import render
from gateway.openai.admission import (
    check_fan_out,
    check_length,
    check_message_count,
    check_model_name,
    loaded_model,
)
from gateway.openai.requests import ChatRequest, ManyChatsRequest
from gateway.openai.responses import ChatCompletion
from gateway.openai.schema import request_body, stream_or
from gateway.openai.translate import plan_answer, template_messages
from gateway.openai.validation import chat_request, chats_request
from gateway.routes.answer import answer
from gateway.routes.body import read_json
from gateway.serving import Serving, serving_of

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
    serving = serving_of(request)
    body = chat_request(await read_json(request, serving.config.max_body_bytes))
    return await _chat(request, serving, body)


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
    serving = serving_of(request)
    body = chats_request(await read_json(request, serving.config.max_body_bytes))
    return await _chat(request, serving, body)


async def _chat(
    request: Request, serving: Serving, body: ChatRequest | ManyChatsRequest
) -> Response:
    config, pool = serving.config, serving.pool
    check_model_name(body.model, config)
    status = pool.status()
    check_fan_out(len(body.conversations), body.n or 1, "messages", config.workers, status)
    model = loaded_model(status)
    chat_format = choose_template(config, model)
    prompts = []
    for conversation in body.conversations:
        check_message_count(len(conversation), model)
        prompts.append(render(chat_format, model, template_messages(conversation)))
        check_length(prompts[-1], "messages", model)
    plan = plan_answer(body, prompts, config, chat_format.stops(model.special_tokens))
    return await answer(request, pool, plan)
