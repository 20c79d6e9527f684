"""The HTTP routes of the dialects: those that generate, and those for questions of tokens.

The order of a request: read the body, let its dialect understand it, find the model, ask the pool
for admission, make the prompts, run.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.answer.constraint import constraint_of
from gateway.answer.pieces import Piece, Text
from gateway.answer.plan import (
    admit,
    check_for_model,
    generations,
    loaded_model,
    questions_of,
    room_for,
    token_question,
)
from gateway.answer.reader import reader_for
from gateway.answer.run import Order, Tally, run
from gateway.ask import Ask
from gateway.bounds import TimeBounds, interruptible, time_bounds, while_connected
from gateway.dialects import Dialect, Endpoint, Header, Writer
from gateway.dialects.chat import CHAT, MANY_CHATS
from gateway.dialects.completions import COMPLETIONS
from gateway.dialects.embeddings import EMBEDDINGS
from gateway.dialects.tokens import TOKEN_DIALECTS, TokenDialect
from gateway.errors import failure
from gateway.models import Models, Served, models_of
from gateway.observe.record import GenerationRecord, RequestRecord, Transcript, record_of
from gateway.pool.base import Terms, WorkerPool
from gateway.sse import send_events
from shared.messages import Failed, Prepared, Question

DIALECTS: tuple[Dialect, ...] = (COMPLETIONS, CHAT, MANY_CHATS, EMBEDDINGS)
ENDPOINTS = (*DIALECTS, *TOKEN_DIALECTS)
ERROR_SHAPES = {dialect.path: dialect.error for dialect in DIALECTS}
"""How errors look, by path; on all others as OpenAI has them."""

Body: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Context:
    """What a request comes with besides its body."""

    models: Models
    record: RequestRecord
    bounds: TimeBounds


Answering: TypeAlias = Callable[[Body, _Context], Awaitable[ASGIApp]]
"""Makes the answer, or what will run and send it; raises an `ApiError` or `PoolRefused`."""


class _Handler:
    """Answers the requests to one path, as an ASGI application.

    A route of FastAPI would look for parameters in each request: a tenth of the time to the first
    byte of an answer that nothing else takes time for.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, record = Request(scope, receive), record_of(scope)
        models = models_of(request)
        config = models.default.config
        bounds = time_bounds(
            request.headers, record.began_s, config.request_timeout_s, config.queue_timeout_s
        )
        with interruptible() as interrupt:
            with bounds.applied(interrupt):
                body = await models.bodies.read_object(request)
            with while_connected(receive, interrupt):
                with bounds.applied(interrupt):
                    answer = await self._answering(body, _Context(models, record, bounds))
                await answer(scope, receive, send)


async def _generate(dialect: Dialect, body: Body, context: _Context) -> ASGIApp:
    ask = dialect.read(body)
    served = context.models.find(ask.model)
    config = served.config
    name = f"{dialect.id_prefix}-{uuid.uuid4().hex}"
    header = Header(name, int(time()), config.model_id, config.system_fingerprint)
    orders = await _orders(ask, served, name, context.record, context.bounds)
    return _Answer(ask, served.pool, orders, dialect.writer(ask, header))


async def _orders(
    ask: Ask, served: Served, answer_id: str, record: RequestRecord, bounds: TimeBounds
) -> list[Order]:
    """What is to run."""
    model = admit(ask, served.pool)
    check_for_model(ask, model)
    constraint = constraint_of(ask)
    params = {"grammar": constraint.param}
    wants_text = ask.echoes or served.config.log_prompts
    record.is_stream = ask.form == "stream"
    record.choices = ask.candidates
    record.generations = [GenerationRecord() for _ in range(len(ask.prompts) * ask.candidates)]
    questions = questions_of(ask, model, constraint.grammar, wants_text=wants_text)
    prepared = (await _prepared(served.pool, questions, params))[: len(ask.prompts)]
    prompts = [
        (each, room_for(each, ask.limit, model, prompt.param))
        for each, prompt in zip(prepared, ask.prompts, strict=True)
    ]
    terms = Terms(ask.form != "stream", bounds.deadline_s, bounds.queue_timeout_s)
    made = generations(ask, prompts, constraint, answer_id, record.request_id)
    orders: list[Order] = []
    for generation, noted in zip(made, record.generations, strict=True):
        text = prepared[len(orders) // ask.candidates].text
        order = Order(generation, terms, reader_for(ask, text), params, noted)
        if served.config.log_prompts:  # kept with the text that comes, for the log
            transcript = Transcript(text)
            record.transcripts.append(transcript)
            order.note = transcript.add
        orders.append(order)
    return orders


async def _prepared(
    pool: WorkerPool, questions: Sequence[Question | Prepared], params: Mapping[str, str]
) -> list[Prepared]:
    """The answers to questions, and what needs none as it is.

    Raises:
        ApiError: one has no answer.
        PoolRefused: the pool does not answer.
    """
    answers: list[Prepared] = []
    for question in questions:  # one after the other: a preparer does not answer two at once
        answer = question if isinstance(question, Prepared) else await pool.prepare(question)
        if isinstance(answer, Failed):
            raise failure(answer, params)
        answers.append(answer)
    return answers


class _Answer:
    """Runs generations and sends what they say."""

    def __init__(self, ask: Ask, pool: WorkerPool, orders: Sequence[Order], writer: Writer) -> None:
        self._ask = ask
        self._pool = pool
        self._orders = orders
        self._writer = writer
        self._tally = Tally(ask.candidates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._ask.form == "stream":
            chunks = run(self._pool, self._orders, self._written)
            await send_events(scope, send, chunks, self._writer, self._tally)
            return
        # The texts of one request for embeddings leave room for other requests.
        at_once = self._pool.status().max_running if self._ask.embeds else None
        async with aclosing(run(self._pool, self._orders, self._collected, at_once)) as running:
            async for _ in running:
                pass
        await _json(self._writer.whole(self._tally.usage))(scope, receive, send)

    def _written(self, index: int, pieces: Sequence[Piece]) -> bytes:
        if len(pieces) == 1 and type(pieces[0]) is Text:  # a token
            return self._writer.piece(index, pieces[0])
        for piece in pieces:
            self._tally.count(index, piece)
        return b"".join([self._writer.piece(index, piece) for piece in pieces])

    def _collected(self, index: int, pieces: Sequence[Piece]) -> bytes:
        for piece in pieces:
            self._tally.count(index, piece)
            self._writer.collect(index, piece)
        return b""


async def _ask_about_tokens(dialect: TokenDialect, body: Body, context: _Context) -> ASGIApp:
    asked = dialect.read(body)
    pool = context.models.find(asked.model).pool
    model = loaded_model(pool)
    (found,) = await _prepared(pool, [token_question(asked.prompt, model)], {})
    return _json(dialect.write(asked.options, found, model.n_ctx))


def _json(content: Any) -> Response:
    made = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(made, media_type="application/json")


def _route(endpoint: Endpoint, answering: Answering) -> Route:
    return Route(endpoint.path, _Handler(answering), methods=["POST"])


ROUTES = [
    *(_route(each, partial(_generate, each)) for each in DIALECTS),
    *(_route(each, partial(_ask_about_tokens, each)) for each in TOKEN_DIALECTS),
]
