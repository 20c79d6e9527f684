"""Runs a plan on the pool and answers with what comes of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway.openai.folds import ObjectFold, StreamFold
from gateway.openai.responses import ChatCompletion, TextCompletion
from gateway.openai.translate import AnswerPlan
from gateway.pool.base import WorkerPool
from gateway.routes.fan_in import Progresses, run
from gateway.sse import EventStream, until_disconnect


async def answer(request: Request, pool: WorkerPool, plan: AnswerPlan) -> Response:
    """The response to ``request``; when its client goes away, its generations are cancelled."""
    events = run(pool, plan.generations, plan.prompt_param)
    if plan.form == "stream":
        return EventStream(_chunks(events, StreamFold(plan)))
    return JSONResponse(await until_disconnect(request.receive, _whole(events, ObjectFold(plan))))


async def _chunks(events: Progresses, fold: StreamFold) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for index, event in events:
            if chunk := fold.feed(index, event):
                yield chunk
    yield fold.end()


async def _whole(
    events: Progresses, fold: ObjectFold
) -> ChatCompletion | TextCompletion | str | list[str]:
    async with aclosing(events):
        async for index, event in events:
            fold.feed(index, event)
    return fold.result()
