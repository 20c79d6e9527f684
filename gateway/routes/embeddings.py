"""``/v1/embeddings``: texts in, what they mean to the model as vectors out."""

import asyncio
import uuid
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from gateway.errors import failure
from gateway.observe.record import RequestRecord, record_of, transcribing
from gateway.openai.admission import check_model_name, check_open, loaded_model
from gateway.openai.embeddings import (
    EmbeddingList,
    EmbeddingPlan,
    EmbeddingRequest,
    embedding_list,
    entry,
    plan_embeddings,
)
from gateway.openai.prompts import room_for
from gateway.openai.schema import ERROR_RESPONSES, request_body
from gateway.openai.validation import checked
from gateway.pool.base import GenerationRecord, Terms
from gateway.routes.body import json_object, read_body
from gateway.routes.deadlines import TimeBounds, time_bounds
from gateway.routes.fan_in import Feed
from gateway.routes.prepare import answer_of
from gateway.serving import Serving, serving_of
from gateway.sse import until_disconnect
from shared.messages import Event, Failed, Finished, Generate

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
        content = await read_body(request, serving)
        load = serving.pool.load()
        check_open(load)
        body = checked(EmbeddingRequest, json_object(content))
        check_model_name(body.model, serving.config)
        plan = plan_embeddings(body, loaded_model(load))
    record = record_of(request.scope)
    record.generations = [GenerationRecord() for _ in plan.inputs]
    entries = [b""] * len(plan.inputs)

    def fill(index: int, event: Event) -> None:
        if isinstance(event, Finished):
            entries[index] = entry(index, event.embedding, plan)

    feed = transcribing(record, plan.texts, fill) if serving.config.log_prompts else fill
    running = _run_all(serving, plan, record, bounds, feed)
    await until_disconnect(request.receive, running)
    answer = embedding_list(entries, serving.config.model_id, record.prompt_tokens)
    return Response(answer, media_type="application/json")


async def _run_all(
    serving: Serving,
    plan: EmbeddingPlan,
    record: RequestRecord,
    bounds: TimeBounds,
    feed: Feed[None],
) -> None:
    """Run as many generations at a time as there are workers: there is room for those of others.

    The first that fails or is refused ends all, with an `ApiError` or `PoolRefused`.
    """
    pool, waiting = serving.pool, iter(range(len(plan.inputs)))
    model = loaded_model(pool.load())
    name = f"embd-{uuid.uuid4().hex}"
    terms = Terms(True, bounds.deadline_s, bounds.queue_timeout_s)

    async def run_some() -> None:
        for index in waiting:
            with bounds.within():
                prompt = await answer_of(pool, plan.inputs[index])
            room_for(prompt, 0, model, param=plan.params[index])
            generation = Generate(
                f"{name}-{index}",
                prompt.ids,
                max_tokens=0,
                trace_id=record.request_id,
                embeds=True,
            )
            noted = record.generations[index]
            async with aclosing(pool.generate(generation, terms, noted)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        raise failure(event)
                    feed(index, event)

    n_running = min(serving.config.workers, len(plan.inputs))
    running = [asyncio.create_task(run_some()) for _ in range(n_running)]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
