"""Runs a plan on the pool and answers with what comes of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway.openai.folds import ObjectFold, StreamFold
from gateway.openai.translate import AnswerPlan
from gateway.pool.base import WorkerPool
from gateway.routes.fan_in import run
from gateway.sse import EventStream, until_disconnect


async def answer(request: Request, pool: WorkerPool, plan: AnswerPlan) -> Response:
    """The response to ``request``; when its client goes away, its generations are cancelled."""
    if plan.form == "stream":
        stream = StreamFold(plan)
        return EventStream(run(pool, plan.generations, stream.feed, plan.prompt_param), stream.end)
    whole = ObjectFold(plan)
    feeding = _exhaust(run(pool, plan.generations, whole.feed, plan.prompt_param))
    await until_disconnect(request.receive, feeding)
    return JSONResponse(whole.result())


async def _exhaust(feeding: AsyncGenerator[None, None]) -> None:
    async with aclosing(feeding):
        async for _ in feeding:
            pass
