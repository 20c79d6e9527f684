"""Runs a plan on the pool and answers with what comes of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway.observe.record import RequestRecord, record_of, transcribing
from gateway.openai.folds import ObjectFold, StreamFold
from gateway.openai.translate import AnswerPlan
from gateway.pool.base import GenerationRecord, Terms
from gateway.routes.deadlines import TimeBounds
from gateway.routes.fan_in import Fed, Feed, run
from gateway.serving import Serving
from gateway.sse import EventStream, until_disconnect


async def answer(
    request: Request, serving: Serving, plan: AnswerPlan, bounds: TimeBounds
) -> Response:
    """The response to ``request``; when its client goes away, its generations are cancelled."""
    record = record_of(request.scope)
    record.is_stream = plan.form == "stream"
    record.generations = [GenerationRecord() for _ in plan.generations]
    record.choices = plan.candidates
    terms = Terms(not record.is_stream, bounds.deadline_s, bounds.queue_timeout_s)
    orders = [
        (replace(generation, trace_id=record.request_id), terms, noted)
        for generation, noted in zip(plan.generations, record.generations, strict=True)
    ]
    if record.is_stream:
        stream = StreamFold(plan)
        feed = _kept(serving, record, plan, stream.feed)
        return EventStream(run(serving.pool, orders, feed, plan.params), stream.end)
    whole = ObjectFold(plan)
    fill = _kept(serving, record, plan, whole.feed)
    feeding = _exhaust(run(serving.pool, orders, fill, plan.params))
    await until_disconnect(request.receive, feeding)
    return JSONResponse(whole.result())


def _kept(serving: Serving, record: RequestRecord, plan: AnswerPlan, feed: Feed[Fed]) -> Feed[Fed]:
    """``feed``, with its text kept for the log if prompts are logged."""
    return transcribing(record, plan.generations, feed) if serving.config.log_prompts else feed


async def _exhaust(feeding: AsyncGenerator[None, None]) -> None:
    async with aclosing(feeding):
        async for _ in feeding:
            pass
