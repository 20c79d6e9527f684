"""Asks an application that not everybody may use."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from starlette.middleware import Middleware

from gateway.app import create_app
from gateway.auth import access_for
from gateway.observe.record import RequestRecord
from gateway.settings import Settings
from tests.unit.gateway.fakes import CONFIG, ScriptedPool

COMPLETION = {"prompt": "x", "model": "org/model"}
KEYS = "alice:alices-key,bob:bobs-secret"
ALICE = {"authorization": "Bearer alices-key"}


def access(**settings: str) -> list[Middleware]:
    """What the settings with these names make of it; for this machine only if there is no HOST."""
    return access_for(Settings.load([], settings))


class Asker:
    """One application, asked without sockets; Host is ``localhost:8000`` unless a header says so.

    Not more than an application for each set of layers: to make one takes its time.
    """

    def __init__(
        self,
        layers: Sequence[Middleware],
        pool: ScriptedPool | None = None,
        observers: Sequence[Callable[[RequestRecord], None]] = (),
    ) -> None:
        self.pool = pool or ScriptedPool()
        self._app = create_app(CONFIG, self.pool, layers, observers)

    def __call__(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            base_url = "http://localhost:8000"
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(asyncio.wait_for(send(), 10))

    def complete(self, **headers: str) -> httpx.Response:
        """Ask for a completion; underscores stand for hyphens."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self("POST", "/v1/completions", headers=given, json=COMPLETION)
