"""Runs the pool and the HTTP server together, from the first signal of life to the last."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.auth import access_for, exposed
from gateway.http.protocol import HttpLimits, HttpProtocol, HttpServerState
from gateway.http.requests import CLOSE
from gateway.launch import Launch
from gateway.listening import listen, raise_file_limit, tls_context, url_of
from gateway.machine import has_terminal
from gateway.models import Admin, Models
from gateway.observe.tracing import Spans
from gateway.plan import Plan
from gateway.reload import Reloads
from shared.logging import request_id_var
from shared.messages import ModelInfo

logger = logging.getLogger(__name__)

# By then every answer has been ended, by its worker or by us; what is left is a client that does
# not read.
_LAST_WORDS_S = 2
_HANDSHAKE_S = 10.0  # a TLS handshake is a few round trips


class _Server(uvicorn.Server):
    """uvicorn's server, but a first signal only drains.

    While it drains it goes on listening, so that clients and load balancers are told why they get
    nothing; each connection ends with its next answer.
    """

    server_state: HttpServerState
    reloads: Reloads  # of what is served; to be set before it serves

    def __init__(
        self,
        config: uvicorn.Config,
        limits: HttpLimits,
        tls: ssl.SSLContext | None,
        drain_timeout_s: float,
    ) -> None:
        super().__init__(config)
        self.server_state = HttpServerState(limits)
        self._tls = tls
        self._drain_timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self._is_draining = False
        self._draining: asyncio.Task[None] | None = None

    def exit(self) -> None:
        """End when the last request has been answered."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn's own gives a TLS handshake a minute.
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(1)
        options: dict[str, Any] = {"backlog": self.config.backlog}
        if self._tls is not None:
            receive_s = self.server_state.limits.receive_timeout_s or _HANDSHAKE_S
            options |= {"ssl": self._tls, "ssl_handshake_timeout": min(_HANDSHAKE_S, receive_s)}
        self.servers = [
            await self._loop.create_server(self._connection, sock=listener, **options)
            for listener in sockets or ()
        ]
        self.started = True

    def _connection(self) -> HttpProtocol:
        return HttpProtocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        self.server_state.end_overdue(self._loop.time())  # ten times a second
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        giving_up = self._loop.call_later(_LAST_WORDS_S, self._abort_connections)
        await super().shutdown(sockets)
        giving_up.cancel()
        if self.force_exit:
            # uvicorn would leave the application's own shutdown to the end of the event loop, which
            # cancels it, and then log the cancellation as an error; and so with the requests.
            await self.lifespan.shutdown()
            self._abort_connections()
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=_LAST_WORDS_S)

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own version would raise the signal again at the end, and so exit with it.
        if self._is_draining:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self.exit)
        else:
            self._is_draining = True
            self._loop.call_soon_threadsafe(self._begin_drain)

    def stop(self) -> None:
        """Drain; does nothing while that goes on."""
        if not self._is_draining:
            self.handle_exit(signal.SIGTERM, None)

    def _begin_drain(self) -> None:
        request_id_var.set("")  # of the request that the signal came into the midst of
        # Of these uvicorn makes the default headers, each second.
        self.config.encoded_headers.append(CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        """Let what has begun come to its end, within the drain timeout; then end it."""
        logger.info("shutting down; a second signal does not wait for running requests")
        self.reloads.begin_close()
        pools = self.reloads.pools
        for pool in pools:
            pool.stop_accepting()
        begun = set(self.server_state.tasks)

        async def all_done() -> None:
            if begun:
                await asyncio.wait(begun)
            for pool in pools:
                await pool.idle()

        try:
            await asyncio.wait_for(all_done(), self._drain_timeout_s)
        except asyncio.TimeoutError:
            await self.reloads.close()
        finally:
            self.exit()

    async def close(self) -> None:
        """End all pools; after a second signal the drain may still wait for a client."""
        await self.reloads.close()
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)


async def serve(launch: Launch, plan: Plan) -> int:
    """Serve until a signal ends it, or until it is known that no worker can load the model.

    Returns:
        The exit status: 0 after a signal, 1 if the model cannot be served.

    Raises:
        UsageError: the address cannot be listened on, or a setting cannot be used.
    """
    settings = launch.settings
    access, tls = access_for(settings), tls_context(settings)
    spans = Spans() if settings.otel else None
    listener = listen(settings.host, settings.port, settings.send_timeout)
    if (warning := exposed(settings)) is not None:
        logger.warning("%s", warning)
    serving, pool = launch.pool(plan)
    app = create_app(serving, pool, access, [spans.observe] if spans else [])
    models: Models = app.state.models
    processes = plan.workers + plan.parked
    limits = HttpLimits(
        raise_file_limit(processes, settings.max_queue, settings.max_connections),
        settings.max_header_bytes,
        settings.receive_timeout,
        settings.keep_alive_timeout,
        count_refused=models.metrics.count_refused,
    )
    server = _Server(_configured(app), limits, tls, settings.drain_timeout)
    server.reloads = Reloads(
        settings, launch.pool, plan, pool, models, lambda: server.server_state.tasks
    )
    if settings.admin_key is not None:
        models.admin = Admin(settings.admin_key, server.reloads.reload)
    url = url_of(listener, "http" if tls is None else "https")
    with _at_hangup(server):
        running = asyncio.create_task(server.serve(sockets=[listener]))
        settling = asyncio.create_task(pool.settled())
        try:
            await asyncio.wait((settling, running), return_when=asyncio.FIRST_COMPLETED)
            # What is there by now stays, and need not be searched for garbage while clients wait.
            gc.collect()
            gc.freeze()
            status = pool.status()
            if status.state == "failed":
                logger.error("the model cannot be served: %s", status.reason)
                server.exit()
            elif status.state == "ready" and status.model is not None:
                _show(_summary(url, plan, status.model))
                serving.measure_beside()
            await running
        finally:
            await server.close()
            if spans is not None:
                spans.close()
    return 1 if status.state == "failed" else 0


def _configured(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws="none",
        proxy_headers=False,  # nobody here asks where a request comes from
        log_config=None,
        log_level="warning",  # its own account of the start; requests are logged by the app
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2 * _LAST_WORDS_S,
    )


@contextlib.contextmanager
def _at_hangup(server: _Server) -> Iterator[None]:
    """Have SIGHUP load the model again; or end the server if its terminal is gone.

    With ``nohup`` it outlives that.
    """
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[None]] = set()
    ends_with_terminal = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def act() -> None:
        if ends_with_terminal and not has_terminal():
            server.stop()
            return
        task = loop.create_task(server.reloads.reload_for_signal())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes too late ends nothing


def _show(text: str) -> None:
    # Nobody may be there to read it, and a full disk is no reason to end. Nothing may stay in a
    # buffer, whose failure would be the exit status.
    with contextlib.suppress(OSError):
        os.write(1, text.encode())


def _summary(url: str, plan: Plan, model: ModelInfo) -> str:
    why = f" ({plan.context})" if plan.context else ""
    return (
        f"\n  ggml-fastapi is ready on {url}\n\n"
        f"  model     {plan.worker.model_id} ({plan.family})\n"
        f"  engine    {plan.engine or 'none'}\n"
        f"  context   {model.n_ctx} tokens{why}\n"
        f"  template  {model.chat_format}, from {model.chat_format_origin}\n"
        f"  workers   {plan.layout}\n"
        f"  memory    {plan.memory}\n"
        f"  chat      POST {url}/v1/chat/completions\n"
        f"  docs      {url}/docs\n"
    )
