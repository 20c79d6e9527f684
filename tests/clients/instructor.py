"""Instructor, which makes models fill in pydantic classes."""

from typing import Any

import instructor
from instructor import Mode
from openai import AsyncOpenAI, OpenAI

from tests.clients.subjects import (
    JSON_QUESTION,
    MODEL,
    TIMEOUT_S,
    TRIP,
    URL,
    WEATHER,
    Anything,
    GetWeather,
    Trip,
)

OPTIONS: dict[str, Any] = {
    "base_url": URL,
    "api_key": "none",
    "max_retries": 0,
    "timeout": TIMEOUT_S,
}
ASK: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 400, "max_retries": 0}


JSON_MESSAGES = [{"role": "user", "content": JSON_QUESTION}]


def client(mode: Mode) -> Any:
    """A client in one of Instructor's modes."""
    return instructor.from_openai(OpenAI(**OPTIONS), mode=mode)


def made(mode: Mode) -> Any:
    """What it makes of a question for nested models."""
    return client(mode).chat.completions.create(**ASK, messages=TRIP, response_model=Trip)


def check_tools_mode() -> None:
    assert isinstance(made(Mode.TOOLS), Trip)


def check_json_schema_mode() -> None:
    assert isinstance(made(Mode.JSON_SCHEMA), Trip)


def check_json_mode() -> None:
    """Any JSON object is one of these: the schema is only in the prompt."""
    answer = client(Mode.JSON).chat.completions.create(
        **ASK, messages=JSON_MESSAGES, response_model=Anything
    )
    assert isinstance(answer, Anything)


def check_partial_models() -> None:
    for mode in (Mode.TOOLS, Mode.JSON_SCHEMA):
        pieces = list(
            client(mode).chat.completions.create_partial(**ASK, messages=TRIP, response_model=Trip)
        )
        assert len(pieces) > 1
        Trip.model_validate(pieces[-1].model_dump())


async def check_async() -> None:
    async with AsyncOpenAI(**OPTIONS) as bare:
        patched: Any = instructor.from_openai(bare, mode=Mode.TOOLS)
        answer = await patched.chat.completions.create(
            **ASK, messages=WEATHER, response_model=GetWeather
        )
    assert isinstance(answer, GetWeather)
