"""``/v1/embeddings``: texts in, what they mean to the model as vectors out."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from gateway.errors import failure
from gateway.observe.record import record_of, transcribing
from gateway.openai.admission import check_model_name, loaded_model
from gateway.openai.embeddings import (
    EmbeddingList,
    EmbeddingPlan,
    EmbeddingRequest,
    embedding_list,
    entry,
    plan_embeddings,
)
from gateway.openai.schema import ERROR_RESPONSES, request_body
from gateway.openai.validation import checked
from gateway.pool.base import GenerationRecord, PoolLoad, Terms, WorkerPool
from gateway.routes.body import json_object, read_plan
from gateway.routes.deadlines import time_bounds
from gateway.routes.fan_in import Feed, Order
from gateway.serving import ServingConfig, serving_of
from gateway.sse import until_disconnect
from shared.messages import Event, Failed, Finished

router = APIRouter(tags=["embeddings"])


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingList,
    openapi_extra=request_body(EmbeddingRequest, example={"input": "The food was delicious."}),
    responses=ERROR_RESPONSES,
)
async def embeddings(request: Request) -> Response:
    """Say what texts mean to the model: each becomes a vector of length 1.

    It is the hidden state behind the last token, which some families of models do not give.
    """
    serving = serving_of(request)
    bounds = time_bounds(request, serving.config)
    with bounds.within():
        plan = await read_plan(request, serving, _plan)
    record = record_of(request.scope)
    record.generations = [GenerationRecord() for _ in plan.generations]
    terms = Terms(True, bounds.deadline_s, bounds.queue_timeout_s)
    orders = [
        (replace(generation, trace_id=record.request_id), terms, noted)
        for generation, noted in zip(plan.generations, record.generations, strict=True)
    ]
    entries = [b""] * len(orders)

    def fill(index: int, event: Event) -> None:
        if isinstance(event, Finished):
            entries[index] = entry(index, event.embedding, plan)

    feed = transcribing(record, plan.generations, fill) if serving.config.log_prompts else fill
    running = _run_all(serving.pool, orders, plan, serving.config.workers, feed)
    await until_disconnect(request.receive, running)
    content = embedding_list(entries, serving.config.model_id, record.prompt_tokens)
    return Response(content, media_type="application/json")


def _plan(content: bytes, config: ServingConfig, load: PoolLoad) -> EmbeddingPlan:
    request = checked(EmbeddingRequest, json_object(content))
    check_model_name(request.model, config)
    return plan_embeddings(request, loaded_model(load))


async def _run_all(
    pool: WorkerPool,
    orders: Sequence[Order],
    plan: EmbeddingPlan,
    most: int,
    feed: Feed[None],
) -> None:
    """Run generations, ``most`` at a time, so that there is room for those of others.

    The first that fails or is refused ends all, with an `ApiError` or `PoolRefused`.
    """
    waiting = iter(enumerate(orders))

    async def run_some() -> None:
        for index, order in waiting:
            async with aclosing(pool.generate(*order)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        raise failure(event, {"prompt": plan.params[index]})
                    feed(index, event)

    running = [asyncio.create_task(run_some()) for _ in range(min(most, len(orders)))]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
