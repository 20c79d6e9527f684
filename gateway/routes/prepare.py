"""Has the prompts of a request prepared, before it waits for a worker."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastapi import Request

from gateway.errors import SAME_NAMES, failure
from gateway.openai.prompts import question_id
from gateway.openai.tool_choice import UNBOUND, Bound
from gateway.pool.base import WorkerPool
from gateway.sse import until_disconnect
from shared.messages import Failed, Prepare, Prepared, Question


async def prepared(
    request: Request,
    pool: WorkerPool,
    questions: Sequence[Question | Prepared],
    bound: Bound = UNBOUND,
) -> list[Prepared]:
    """The answers to questions, and what needs none as it is.

    Args:
        request: whose they are; when its client goes away, they are forgotten.
        pool: has them answered.
        questions: about the prompts.
        bound: what the answer is bound to be; a grammar is tried once, with the first question.

    Raises:
        ApiError: the first that has no answer, or the grammar cannot be used.
        PoolRefused: the pool does not answer.
    """
    asked = list(questions)
    if bound.grammar is not None:
        if isinstance(asked[0], Prepare):
            asked[0] = replace(asked[0], grammar=bound.grammar)
        else:
            asked.append(Prepare(question_id(), grammar=bound.grammar))
    params = {"grammar": bound.param}
    if len(asked) == 1:
        work = _answer(pool, asked[0], params)
        return [await until_disconnect(request.receive, work)]
    answers = await until_disconnect(request.receive, _answers(pool, asked, params))
    return answers[: len(questions)]


async def answer_of(pool: WorkerPool, question: Question | Prepared) -> Prepared:
    """The answer to one question; see `prepared`."""
    return await _answer(pool, question, SAME_NAMES)


async def _answers(
    pool: WorkerPool, asked: Sequence[Question | Prepared], params: Mapping[str, str]
) -> list[Prepared]:
    tasks = [asyncio.ensure_future(_answer(pool, question, params)) for question in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(
    pool: WorkerPool, question: Question | Prepared, params: Mapping[str, str]
) -> Prepared:
    if isinstance(question, Prepared):
        return question
    answer = await pool.prepare(question)
    if isinstance(answer, Failed):
        raise failure(answer, params)
    return answer
