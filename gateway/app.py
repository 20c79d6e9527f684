"""Builds the application from its parts: routers, error table, middleware, life of the pool."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import operations, routes
from gateway.body import BodyReader
from gateway.errors import ERROR_SHAPE, HANDLERS, UnexpectedErrors
from gateway.models import VERSION, Models, Served, ServingConfig
from gateway.observe.event_loop import LoopWatch
from gateway.observe.log import RequestLog
from gateway.observe.metrics import Metrics
from gateway.observe.record import RequestRecord
from gateway.openapi import add_endpoints
from gateway.pool.base import WorkerPool
from gateway.sse import DIRECT_SEND

logger = logging.getLogger(__name__)


def create_app(
    config: ServingConfig,
    pool: WorkerPool,
    access: Sequence[Middleware] = (Middleware(UnexpectedErrors),),
    observers: Sequence[Callable[[RequestRecord], None]] = (),
) -> FastAPI:
    """The application that serves ``pool``; it starts and closes the pool with itself.

    Args:
        config: what clients see of this server.
        pool: runs the generations.
        access: what `access_for` makes of the settings; lets everybody in by default.
        observers: are given the record of each request when its answer has ended.
    """
    metrics = Metrics(VERSION)
    ours = (*routes.ROUTES, *operations.router.routes)
    endpoints = {route.path for route in ours if isinstance(route, Route)}
    app = _Application(
        title="ggml-fastapi",
        version=VERSION,
        summary=f"An OpenAI-style API for {config.model_id}",
        redirect_slashes=False,
        lifespan=_lifespan,
        # Outermost first: whatever is refused further in has an id by then, and is logged.
        middleware=[
            Middleware(RequestLog, endpoints, [metrics.observe, *observers]),
            *access,
        ],
        exception_handlers=HANDLERS,
    )
    # Whatever the pool would take at once may come with a large body.
    most_large = config.workers + pool.status().max_queue
    bodies = BodyReader(config.max_body_bytes, most_large)
    app.state.models = Models(Served(config, pool), metrics, bodies)
    app.router.routes.extend(routes.ROUTES)
    app.include_router(operations.router)
    return app


class _Application(FastAPI):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[DIRECT_SEND] = send
        if (shape := routes.ERROR_SHAPES.get(scope.get("path", ""))) is not None:
            scope[ERROR_SHAPE] = shape
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            add_endpoints(super().openapi(), routes.ENDPOINTS)
        return super().openapi()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    models: Models = app.state.models
    served = models.default
    # In the background, so that /health and /ready answer while the model loads.
    starting = asyncio.create_task(_start(served))
    watching = asyncio.create_task(LoopWatch(models.metrics.note_lag_s).run())
    try:
        yield
    finally:
        starting.cancel()
        watching.cancel()
        await asyncio.gather(starting, watching, return_exceptions=True)
        await served.pool.close()


async def _start(served: Served) -> None:
    try:
        await served.pool.start()
    except Exception:
        logger.exception("the worker pool did not start")
