"""OpenAI's own client, sync and async, against the demo model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serving import Server

PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a very long story about a dragon."}]
LONG = 3000
"""More tokens than two workers generate before a test's deadline."""


@pytest.fixture
def client(demo_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture
def model(demo_server: Server) -> str:
    return demo_server.model


def test_a_chat(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": PARIS, "temperature": 0, "max_tokens": 64}
    answer = client.chat.completions.create(**ask)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content is not None and "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    with client.chat.completions.create(**ask, stream=True) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_completion(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "prompt": "Once upon a time", "temperature": 0}
    answer = client.completions.create(**ask)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 16
    with client.completions.create(**ask, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
    several = client.completions.create(**ask | {"prompt": ["Once upon a time", "In the end"]})
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == answer.choices[0].text


def test_two_choices(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": STORY, "n": 2, "max_tokens": 20, "seed": 1}
    answer = client.chat.completions.create(**ask)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert texts[0] and texts[1] and texts[0] != texts[1]
    assert answer.usage.completion_tokens == 40
    streamed = ["", ""]
    finished = []
    with client.chat.completions.create(**ask, stream=True) as stream:
        for chunk in stream:
            (choice,) = chunk.choices
            streamed[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finished.append(choice.index)
    assert streamed == texts
    assert sorted(finished) == [0, 1]


def test_a_seed_gives_the_same_text_again(client: openai.OpenAI, model: str) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=model, messages=STORY, temperature=1, max_tokens=24, seed=seed
        )
        return answer.choices[0].message.content

    assert ask(42) == ask(42)
    assert len({ask(seed) for seed in (42, 43, 44)}) > 1


def test_a_stop_string(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": PARIS, "temperature": 0, "max_tokens": 64}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    cut = client.chat.completions.create(**ask, stop="Paris").choices[0]
    assert cut.message.content == whole.partition("Paris")[0]
    assert cut.finish_reason == "stop"
    with client.chat.completions.create(**ask, stop=["xyz", "Paris"], stream=True) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == cut.message.content


def test_max_tokens(client: openai.OpenAI, model: str) -> None:
    for names in ({"max_tokens": 5}, {"max_completion_tokens": 5}):
        ask: dict[str, Any] = {"model": model, "messages": STORY, **names}
        answer = client.chat.completions.create(**ask)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5


def test_the_usage_of_a_stream(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model,
        messages=STORY,
        max_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None and last.usage.completion_tokens == 7


def test_a_client_that_does_not_wait_frees_the_worker(
    client: openai.OpenAI, model: str, demo_server: Server
) -> None:
    demo_server.wait_until_idle()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).completions.create(
            model=model, prompt="Once upon a time", max_tokens=LONG, temperature=0
        )
    demo_server.wait_until_idle(timeout=5)


def test_a_stream_that_is_closed_early_frees_the_worker(
    client: openai.OpenAI, model: str, demo_server: Server
) -> None:
    demo_server.wait_until_idle()
    with client.completions.create(
        model=model, prompt="Once upon a time", max_tokens=LONG, temperature=0, stream=True
    ) as stream:
        assert next(stream).choices
        assert demo_server.ready()["running"] == 1
    demo_server.wait_until_idle(timeout=5)


def test_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=PARIS)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as too_long:
            client.chat.completions.create(
                model=model, messages=PARIS, max_tokens=100_000, stream=stream
            )
        assert too_long.value.code == "context_length_exceeded"
        assert too_long.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as absurd:
        client.chat.completions.create(model=model, messages=PARIS, temperature=7)
    assert (absurd.value.code, absurd.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model=model, messages=PARIS, web_search_options={})
    assert unsupported.value.param == "web_search_options"
    assert unsupported.value.request_id


def test_models(client: openai.OpenAI, model: str) -> None:
    assert [entry.id for entry in client.models.list().data] == [model]
    assert client.models.retrieve(model).id == model


def test_many_at_once_with_the_async_client(demo_server: Server, model: str) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0, timeout=60
        ) as client:

            async def whole() -> str:
                answer = await client.chat.completions.create(
                    model=model, messages=PARIS, temperature=0, max_tokens=16
                )
                return answer.choices[0].message.content or ""

            async def streamed() -> str:
                stream = await client.chat.completions.create(
                    model=model, messages=PARIS, temperature=0, max_tokens=16, stream=True
                )
                async with stream:
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def completion() -> str:
                answer = await client.completions.create(
                    model=model, prompt="The capital of France is", temperature=0, max_tokens=8
                )
                return answer.choices[0].text

            async def left() -> None:
                stream = await client.completions.create(
                    model=model, prompt="Once upon a time", max_tokens=LONG, stream=True
                )
                async with stream:
                    await anext(aiter(stream))

            texts = await asyncio.gather(
                *(whole() for _ in range(3)), *(streamed() for _ in range(3))
            )
            assert len(set(texts)) == 1 and "Paris" in texts[0]
            assert "Paris" in await completion()
            await asyncio.gather(left(), left())

    asyncio.run(asyncio.wait_for(work(), 90))
    demo_server.wait_until_idle(timeout=5)
