"""The HTTP routes of the dialects: one handler for all that generate, one for questions of tokens.

The order of a request: read the body, let its dialect understand it, find the model, ask the pool
for admission, make the prompts, run.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import time
from typing import Any, TypeAlias

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.types import Receive

from gateway.answer.constraint import constraint_of
from gateway.answer.pieces import Piece, Text
from gateway.answer.plan import (
    admit,
    check_for_model,
    check_ids,
    generations,
    loaded_model,
    reader_for,
)
from gateway.answer.prompts import (
    check_messages,
    check_size,
    question_name,
    question_of,
    questions_of,
    room_for,
)
from gateway.answer.run import Order, Tally, TimeBounds, run, time_bounds
from gateway.ask import Ask, ChatPrompt, TextPrompt
from gateway.dialects import Dialect, Endpoint, Header, Writer
from gateway.dialects.chat import CHAT, MANY_CHATS
from gateway.dialects.completions import COMPLETIONS
from gateway.dialects.embeddings import EMBEDDINGS
from gateway.dialects.tokens import TOKEN_DIALECTS, Known, TokenDialect, TokenQuestion
from gateway.errors import Shape, failure
from gateway.models import Models, Served, models_of
from gateway.observe.record import GenerationRecord, RequestRecord, Transcript, record_of
from gateway.openapi import ERROR_RESPONSES, request_body, stream_or
from gateway.pool.base import Terms, WorkerPool
from gateway.sse import EventStream, until_disconnect
from shared.messages import Detokenize, Failed, Prepared, Question

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

DIALECTS: tuple[Dialect, ...] = (COMPLETIONS, CHAT, MANY_CHATS, EMBEDDINGS)
ENDPOINTS = [
    *(dialect.endpoint for dialect in DIALECTS),
    *(dialect.endpoint for dialect in TOKEN_DIALECTS),
]
BODIES: list[type[BaseModel]] = [body for endpoint in ENDPOINTS for body in endpoint.bodies]
"""What bodies may be, for the OpenAPI document."""


def error_shapes() -> dict[str, Shape]:
    """How errors look, by path; on all others as OpenAI has them."""
    return {dialect.endpoint.path: dialect.error for dialect in DIALECTS}


def _generating(dialect: Dialect) -> Handler:
    """The handler of a dialect."""

    async def handle(request: Request) -> Response:
        models = models_of(request)
        record, bounds = record_of(request.scope), _bounds(request, models)
        with bounds.within():
            ask = dialect.read(await models.bodies.read_object(request))
            served = models.find(ask.model)
            config = served.config
            name = f"{dialect.id_prefix}-{uuid.uuid4().hex}"
            header = Header(name, int(time()), config.model_id, config.system_fingerprint)
            orders = await _orders(ask, served, header.id, record, bounds, request.receive)
        return await _answer(request, served, ask, orders, dialect.writer(ask, header))

    return handle


async def _orders(
    ask: Ask,
    served: Served,
    answer_id: str,
    record: RequestRecord,
    bounds: TimeBounds,
    receive: Receive,
) -> list[Order]:
    """What is to run.

    Raises:
        ApiError: the request cannot be answered.
        PoolRefused: the pool does not take it now.
    """
    model = admit(ask, served.pool)
    check_for_model(ask, model)
    constraint = constraint_of(ask)
    wants_text = ask.echoes or served.config.log_prompts
    record.is_stream = ask.form == "stream"
    record.choices = ask.candidates
    record.generations = [GenerationRecord() for _ in range(len(ask.prompts) * ask.candidates)]
    questions = questions_of(ask, model, constraint.grammar, wants_text=wants_text)
    work = _prepared(served.pool, questions, {"grammar": constraint.param})
    prepared = (await until_disconnect(receive, work))[: len(ask.prompts)]
    prompts = [
        (each, room_for(each, ask.limit, model, prompt.param))
        for each, prompt in zip(prepared, ask.prompts, strict=True)
    ]
    made = generations(ask, prompts, constraint, answer_id, record.request_id)
    terms = Terms(ask.form != "stream", bounds.deadline_s, bounds.queue_timeout_s)
    orders = [
        Order(
            generation,
            terms,
            reader_for(ask, prepared[place // ask.candidates]),
            {"grammar": constraint.param},
            record.generations[place],
        )
        for place, generation in enumerate(made)
    ]
    if served.config.log_prompts:
        # Kept with the text that comes, for the log.
        for place, order in enumerate(orders):
            transcript = Transcript(prepared[place // ask.candidates].text)
            record.transcripts.append(transcript)
            order.note = transcript.add
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


async def _answer(
    request: Request, served: Served, ask: Ask, orders: Sequence[Order], writer: Writer
) -> Response:
    """The response; when its client goes away, its generations are cancelled."""
    tally = Tally(ask.candidates)

    def send(index: int, pieces: Sequence[Piece]) -> bytes:
        if len(pieces) == 1 and type(pieces[0]) is Text:  # a token
            return writer.piece(index, pieces[0])
        for piece in pieces:
            tally.count(index, piece)
        return b"".join([writer.piece(index, piece) for piece in pieces])

    def collect(index: int, pieces: Sequence[Piece]) -> bytes:
        for piece in pieces:
            tally.count(index, piece)
            writer.collect(index, piece)
        return b""

    if ask.form == "stream":
        chunks = run(served.pool, orders, send)
        return EventStream(
            writer.media_type, chunks, lambda: writer.end(tally.usage), writer.failed
        )
    # The texts of one request for embeddings leave room for other requests.
    at_once = served.pool.status().max_running if ask.embeds else None

    async def finish() -> None:
        async with aclosing(run(served.pool, orders, collect, at_once)) as running:
            async for _ in running:
                pass

    await until_disconnect(request.receive, finish())
    return _json(writer.whole(tally.usage))


def _asking(dialect: TokenDialect) -> Handler:
    """The handler of an endpoint that needs no generation."""

    async def handle(request: Request) -> Response:
        models = models_of(request)
        with _bounds(request, models).within():
            question = dialect.read(await models.bodies.read_object(request))
            known = await _known(request, models.find(question.model), question)
        return _json(dialect.write(question, known))

    return handle


async def _known(request: Request, served: Served, question: TokenQuestion) -> Known:
    model = loaded_model(served.pool)
    asked: Question
    if isinstance(question.prompt, ChatPrompt | TextPrompt):
        check_messages(question.prompt, model)
        check_size(question.prompt)  # it may be longer than the context
        asked = question_of(
            question.prompt,
            question.tools,
            begins=question.begins,
            wants_text=question.wants_text,
            wants_pieces=question.wants_pieces,
        )
    else:
        check_ids(question.ids, question.param, model)
        asked = Detokenize(question_name(), question.ids)
    (known,) = await until_disconnect(request.receive, _prepared(served.pool, [asked], {}))
    return Known(known.ids, known.pieces, known.text, model.n_ctx)


def _bounds(request: Request, models: Models) -> TimeBounds:
    config = models.default.config
    return time_bounds(
        request.headers,
        record_of(request.scope).began_s,
        config.request_timeout_s,
        config.queue_timeout_s,
    )


def _json(content: Any) -> Response:
    made = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(made, media_type="application/json")


def _add(router: APIRouter, endpoint: Endpoint, handler: Handler) -> None:
    router.add_api_route(
        endpoint.path,
        handler,
        methods=["POST"],
        name=endpoint.name,
        tags=[endpoint.tag],
        description=endpoint.description,
        response_model=None if endpoint.streams else endpoint.answer,
        responses=stream_or(endpoint.answer) if endpoint.streams else ERROR_RESPONSES,
        openapi_extra=request_body(endpoint.bodies, endpoint.example),
    )


router = APIRouter()
for _dialect in DIALECTS:
    _add(router, _dialect.endpoint, _generating(_dialect))
for _asked in TOKEN_DIALECTS:
    _add(router, _asked.endpoint, _asking(_asked))
