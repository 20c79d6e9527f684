"""What all clients talk about. Answers are bounded, so that a small model gets to their end."""

import json
import os
import urllib.request
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, Field

URL = os.environ["OPENAI_BASE_URL"]
MODEL = os.environ["MODEL"]
TIMEOUT_S = 60.0


def asked(path: str, **body: Any) -> Any:
    """What the server itself says, without any client."""
    headers = {"content-type": "application/json"}
    content = json.dumps({"model": MODEL, **body}).encode()
    request = urllib.request.Request(URL.removesuffix("/v1") + path, content, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def ids_of(text: str) -> list[int]:
    ids: list[int] = asked("/tokenize", content=text)["tokens"]
    return ids


QUESTION = "What is the capital of France?"
PARIS: list[Any] = [{"role": "user", "content": QUESTION}]
BEGINNING = "The capital of France is"
ANSWER: str = asked("/v1/chat/completions", messages=PARIS, temperature=0, max_tokens=24)[
    "choices"
][0]["message"]["content"]
"""To the question, greedily, in 24 tokens."""
CONTINUATION: str = asked("/v1/completions", prompt=BEGINNING, temperature=0, max_tokens=8)[
    "choices"
][0]["text"]
"""Of the beginning, greedily, in 8 tokens."""
ASK_WEATHER = "What is the weather in Paris?"
WEATHER: list[Any] = [{"role": "user", "content": ASK_WEATHER}]
ASK_TRIP = "Plan a trip to Paris and London."
TRIP: list[Any] = [{"role": "user", "content": ASK_TRIP}]


class Unit(str, Enum):
    """An enumeration, which becomes a ``$ref``."""

    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class GetWeather(BaseModel):
    """Get the weather in a city."""

    city: Literal["Paris", "London"]
    unit: Unit = Field(description="of the temperature")


class Stay(BaseModel):
    city: Literal["Paris", "London"]
    days: int = Field(ge=1, le=9)


class Trip(BaseModel):
    """A model of models."""

    title: str = Field(max_length=20)
    stays: list[Stay] = Field(min_length=1, max_length=1)
    for_work: bool
    budget: int | None = Field(le=9999, ge=0)


class Anything(BaseModel):
    """What any JSON object is."""

    city: Any = None


WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "London"]},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": WEATHER_SCHEMA,
    },
}
TIME_TOOL: Any = {"type": "function", "function": {"name": "get_time"}}
"""As short as a tool can be: no description, no parameters."""
WEATHER_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "weather", "strict": True, "schema": WEATHER_SCHEMA},
}


JSON_QUESTION = 'Answer in JSON: {"capital": the capital of France}'


def is_weather(arguments: str | dict[str, Any]) -> bool:
    """Whether these are arguments of the tool, or an object of that format."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    return (
        list(given) == ["city", "unit"]
        and given["city"] in ("Paris", "London")
        and given["unit"] in ("celsius", "fahrenheit")
    )
