"""``/v1/completions``: text in, its continuation out."""

from fastapi import APIRouter, Request, Response

from gateway.openai.admission import (
    check_fan_out,
    check_length,
    check_model_name,
    check_open,
    loaded_model,
)
from gateway.openai.requests import CompletionRequest
from gateway.openai.responses import TextCompletion
from gateway.openai.schema import request_body, stream_or
from gateway.openai.translate import AnswerPlan, completion_prompt, plan_answer
from gateway.openai.validation import completion_request
from gateway.pool.base import PoolLoad
from gateway.routes.answer import answer
from gateway.routes.body import json_object, read_body
from gateway.routes.deadlines import time_bounds
from gateway.serving import ServingConfig, serving_of

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    openapi_extra=request_body(CompletionRequest, example={"prompt": "Once upon a time"}),
    responses=stream_or(
        TextCompletion | str | list[str], "The continuation, in the form that was asked for."
    ),
)
async def completions(request: Request) -> Response:
    """Continue a text, or with `suffix` fill in what lies between the two.

    Without `model` in the body, the answer is the continuation alone, as a JSON string.
    """
    serving = serving_of(request)
    bounds = time_bounds(request, serving.config)
    with bounds.within():
        body = await read_body(request, serving)
        load = serving.pool.load()
        check_open(load)
        plan = await serving.offload.run(
            request.receive, len(body), lambda: _plan(body, serving.config, load)
        )
    return await answer(request, serving, plan, bounds)


def _plan(content: bytes, config: ServingConfig, load: PoolLoad) -> AnswerPlan:
    body = completion_request(json_object(content))
    check_model_name(body.model, config)
    check_fan_out(len(body.prompt), body.n or 1, "prompt", config.workers, load)
    model = loaded_model(load)
    prompts = [completion_prompt(text, body.suffix, model) for text in body.prompt]
    for prompt in prompts:
        check_length(prompt, "prompt", model)
    return plan_answer(body, prompts, config)
