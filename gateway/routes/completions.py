"""``/v1/completions``: text in, its continuation out."""

from fastapi import APIRouter, Request, Response

from gateway.openai.admission import check_fan_out, check_model_name, check_open, loaded_model
from gateway.openai.parameters import check_token_ids
from gateway.openai.prompts import completion_questions
from gateway.openai.requests import CompletionRequest
from gateway.openai.responses import TextCompletion
from gateway.openai.schema import request_body, stream_or
from gateway.openai.tool_choice import bound_of
from gateway.openai.translate import check_answer, plan_answer
from gateway.openai.validation import completion_request
from gateway.routes.answer import answer
from gateway.routes.body import json_object, read_body
from gateway.routes.deadlines import time_bounds
from gateway.routes.prepare import prepared
from gateway.serving import serving_of

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
    config, bounds = serving.config, time_bounds(request, serving.config)
    with bounds.within():
        content = await read_body(request, serving)
        load = serving.pool.load()
        check_open(load)
        body = completion_request(json_object(content))
        check_model_name(body.model, config)
        params = ("prompt", "best_of" if body.candidates > (body.n or 1) else "n")
        check_fan_out(len(body.prompt), body.candidates, params, config.workers, load)
        model = loaded_model(load)
        check_token_ids(body, model)
        check_answer(body)
        bound = bound_of(body)
        wants_text = config.log_prompts or body.echo is True
        questions = completion_questions(body, model, wants_text=wants_text)
        prompts = await prepared(request, serving.pool, questions, bound)
        plan = plan_answer(body, prompts, config, model, bound)
    return await answer(request, serving, plan, bounds)
