"""Asks an application that not everybody may use."""

import asyncio
from typing import Any

import httpx

from gateway.app import create_app
from gateway.auth.access import Access
from tests.unit.gateway.fakes import CONFIG, ScriptedPool

COMPLETION = {"prompt": "x", "model": "org/model"}


def ask(
    access: Access, method: str, path: str, pool: ScriptedPool | None = None, **kwargs: Any
) -> httpx.Response:
    """Send one request, without sockets; its Host is ``localhost:8000`` unless it says so."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(CONFIG, pool or ScriptedPool(), access))
        base_url = "http://localhost:8000"
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(asyncio.wait_for(send(), 10))
