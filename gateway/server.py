"""Runs the pool and the HTTP server together, from the first signal of life to the last."""

import asyncio
import contextlib
import gc
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from gateway.app import create_app
from gateway.chat.choice import choose_template
from gateway.offload import SWITCH_INTERVAL_S
from gateway.open_files import raise_limit
from gateway.plan import Plan
from gateway.pool.local import LocalPool
from gateway.serving import ServingConfig
from gateway.settings import Settings
from gateway.warm_prompt import warm_prompts
from shared.errors import UsageError
from shared.messages import ModelInfo

logger = logging.getLogger(__name__)

# After the drain timeout every stream has been ended by us; what is left then is a client that
# does not read.
_LAST_WORDS_S = 2.0
# Connections that the kernel holds until they are accepted, so that a burst gets 429, not a reset.
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn's server, but it sleeps while nothing happens, and a first signal only drains."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._exit = asyncio.Event()

    def exit(self) -> None:
        """Take no more requests, and end when the last has been answered."""
        self.should_exit = True
        self._exit.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes ten times a second. Once is what the `date` header takes.
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._exit.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn would leave the application's own shutdown to the end of the event loop, which
            # cancels it, and then log the cancellation as an error.
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own version would raise the signal again at the end, and so exit with it.
        if self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True
            self._drain()


async def serve(
    settings: Settings,
    plan: Plan,
    target: Callable[..., None],
    template_target: Callable[..., None],
    preload: Sequence[str],
) -> int:
    """Serve until a signal ends it, or until it is known that no worker can load the model.

    Args:
        settings: where to listen, and how.
        plan: what to start.
        target: body of a worker process.
        template_target: body of a template with a prefix.
        preload: modules that load the model in the template.

    Returns:
        The exit status: 0 after a signal, 1 if the model cannot be served.

    Raises:
        UsageError: the address cannot be listened on.
    """
    raise_limit(plan.workers + plan.parked, settings.max_queue)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    listener = _listen(settings.host, settings.port)
    serving = ServingConfig(
        model_id=plan.model_id,
        model_file=plan.file_name,
        workers=plan.workers,
        most_bytes=plan.most_bytes,
        max_body_bytes=settings.max_body_bytes,
        created=int(time.time()),
        chat_template=plan.chat_template,
    )
    pool = LocalPool(
        plan.worker,
        workers=plan.workers,
        max_queue=settings.max_queue,
        target=target,
        parked=plan.parked,
        template_target=template_target,
        learns=plan.learns,
        warm_prompts=warm_prompts(plan.warm_prompt, serving),
        preload=preload,
    )
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []

    def end_all() -> None:
        closing.append(loop.create_task(pool.close()))

    def drain() -> None:
        logger.info("shutting down; a second signal does not wait for running requests")
        loop.call_soon_threadsafe(loop.call_later, settings.drain_timeout, end_all)
        loop.call_soon_threadsafe(server.exit)

    config = uvicorn.Config(
        create_app(serving, pool),
        http="httptools",
        proxy_headers=False,  # nobody here asks where a request comes from
        log_config=None,
        log_level="warning",  # its own account of the start; requests are logged by the app
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout + _LAST_WORDS_S),
    )
    server = _Server(config, drain)
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
        elif status.model is not None and not server.should_exit:
            print(_summary(listener, plan, status.model, serving), flush=True)
        await running
    finally:
        await pool.close()
    return 1 if status.state == "failed" else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on HOST={host} PORT={port}: {error.strerror or error}"
        ) from error


def _summary(listener: socket.socket, plan: Plan, model: ModelInfo, serving: ServingConfig) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        host = "localhost"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    chat_format = choose_template(serving, model)
    return (
        f"\n  ggml-fastapi is ready on {url}\n\n"
        f"  model     {plan.model_id} ({plan.family})\n"
        f"  engine    {plan.engine or 'none'}\n"
        f"  context   {model.n_ctx} tokens\n"
        f"  template  {chat_format.name}, from {chat_format.origin}\n"
        f"  workers   {plan.workers}, with {plan.worker.threads} threads among them;"
        f" {plan.parked} more parked\n"
        f"  memory    {plan.memory}\n"
        f"  chat      POST {url}/v1/chat/completions\n"
        f"  docs      {url}/docs\n"
    )
