"""``/v1/completions``: text in, its continuation out."""

from fastapi import APIRouter, Request, Response

from gateway.errors import ApiError
from gateway.openai.admission import (
    check_fan_out,
    check_length,
    check_model_name,
    check_prompt_ids,
    loaded_model,
)
from gateway.openai.parameters import check_token_ids
from gateway.openai.requests import CompletionRequest
from gateway.openai.responses import TextCompletion
from gateway.openai.schema import request_body, stream_or
from gateway.openai.tool_choice import bound_of
from gateway.openai.translate import (
    AnswerPlan,
    Prompt,
    PromptIds,
    completion_prompt,
    plan_answer,
)
from gateway.openai.validation import completion_request
from gateway.pool.base import PoolLoad
from gateway.routes.answer import answer
from gateway.routes.body import json_object, read_plan
from gateway.routes.deadlines import time_bounds
from gateway.serving import ServingConfig, serving_of
from shared.errors import ErrorCode
from shared.messages import ModelInfo

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
        plan = await read_plan(request, serving, _plan)
    return await answer(request, serving, plan, bounds)


def _plan(content: bytes, config: ServingConfig, load: PoolLoad) -> AnswerPlan:
    body = completion_request(json_object(content))
    check_model_name(body.model, config)
    params = ("prompt", "best_of" if body.candidates > (body.n or 1) else "n")
    check_fan_out(len(body.prompt), body.candidates, params, config.workers, load)
    model = loaded_model(load)
    check_token_ids(body, model)
    is_one = len(body.prompt) == 1
    prompts = [
        _prompt(given, "prompt" if is_one else f"prompt[{place}]", body.suffix, model)
        for place, given in enumerate(body.prompt)
    ]
    return plan_answer(body, prompts, config, bound=bound_of(body))


def _prompt(
    given: str | list[int], param: str, suffix: str | None, model: ModelInfo
) -> Prompt | PromptIds:
    if isinstance(given, str):
        prompt = completion_prompt(given, suffix, model)
        check_length(prompt, param, model)
        return prompt
    check_prompt_ids(given, param, model)
    if suffix:
        message = "'suffix' is for prompts of text, not of token ids."
        raise ApiError(ErrorCode.INVALID_VALUE, message, "suffix")
    return given
