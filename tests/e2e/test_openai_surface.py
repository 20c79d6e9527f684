"""OpenAI's client, in the version that is installed beside the tests: its checks, and leaving."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.running import checks_of, outcomes
from tests.serving import Server

SCRIPT = "openai_python.py"
OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60}
# More tokens than are generated before a test's deadline.
LONG: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 3000, "temperature": 0}


@pytest.fixture(scope="module")
def found(quick_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    folder = tmp_path_factory.mktemp("client")
    return outcomes(SCRIPT, quick_server, folder, Path(sys.executable))


@pytest.mark.parametrize("check", checks_of(SCRIPT))
def test_check(check: str, found: dict[str, str | None]) -> None:
    assert found[check] is None, found[check]


def test_some_of_many_leave(demo_server: Server) -> None:
    ask: dict[str, Any] = {
        "model": demo_server.model,
        "messages": [{"role": "user", "content": "What is Python?"}],
        "temperature": 0,
        "max_tokens": 16,
    }

    async def whole(client: openai.AsyncOpenAI) -> str:
        answer = await client.chat.completions.create(**ask)
        return str(answer.choices[0].message.content)

    async def streamed(client: openai.AsyncOpenAI) -> str:
        async with await client.chat.completions.create(**ask, stream=True) as stream:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def left(client: openai.AsyncOpenAI) -> None:
        async with await client.completions.create(
            model=demo_server.model, **LONG, stream=True
        ) as stream:
            await anext(aiter(stream))

    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{demo_server.url}/v1", **OPTIONS) as client:
            asking = [*(whole(client) for _ in range(3)), *(streamed(client) for _ in range(3))]
            texts, *_ = await asyncio.gather(asyncio.gather(*asking), left(client), left(client))
        assert len(set(texts)) == 1 and "language" in texts[0]

    asyncio.run(asyncio.wait_for(work(), 90))
    demo_server.wait_until_idle(timeout=5)
