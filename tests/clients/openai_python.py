"""OpenAI's own client, in whichever version is installed where this runs."""

import asyncio
from array import array
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

from tests.clients.subjects import (
    ANSWER,
    BEGINNING,
    MODEL,
    PARIS,
    TIME_TOOL,
    TIMEOUT_S,
    TRIP,
    URL,
    WEATHER,
    WEATHER_FORMAT,
    WEATHER_TOOL,
    GetWeather,
    Trip,
    ids_of,
    is_weather,
)

OPTIONS: dict[str, Any] = {
    "base_url": URL,
    "api_key": "none",
    "max_retries": 0,
    "timeout": TIMEOUT_S,
}
ASK: dict[str, Any] = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_tokens": 24}
FORCED: dict[str, Any] = {
    **ASK,
    "messages": WEATHER,
    "tools": [WEATHER_TOOL, TIME_TOOL],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "max_tokens": 400,
}
COMPLETE: dict[str, Any] = {"model": MODEL, "prompt": BEGINNING, "temperature": 0, "max_tokens": 4}
LONG = 400
# The types know that nearly everything may be absent; the checks say what is there.
client: Any = OpenAI(**OPTIONS)


def asynchronous() -> Any:
    return AsyncOpenAI(**OPTIONS)


def check_chat() -> None:
    answer = client.chat.completions.create(**ASK)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == ANSWER
    assert choice.finish_reason in ("stop", "length")
    assert choice.message.tool_calls is None and choice.message.refusal is None
    assert choice.logprobs is None
    assert answer.usage.total_tokens > answer.usage.completion_tokens > 0
    assert answer._request_id


def check_stream() -> None:
    whole = client.chat.completions.create(**ASK).choices[0].message.content
    options = {"include_usage": True}
    with client.chat.completions.create(**ASK, stream=True, stream_options=options) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.choices == [] and last.usage.completion_tokens > 0


def check_raw_response() -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.parse().choices[0].message.content == ANSWER
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


def check_parse_response_format() -> None:
    ask = ASK | {"messages": TRIP, "max_tokens": LONG}
    answer = client.chat.completions.parse(**ask, response_format=Trip)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Trip)


def check_parse_tools() -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    ask = FORCED | {"tools": tools, "tool_choice": "required"}
    (choice,) = client.chat.completions.parse(**ask).choices
    assert choice.finish_reason in ("stop", "tool_calls")
    assert not choice.message.content
    for call in choice.message.tool_calls:  # a small model likes to repeat itself
        assert call.id and call.type == "function" and call.function.name == "get_weather"
        assert isinstance(call.function.parsed_arguments, GetWeather)
    assert len({call.id for call in choice.message.tool_calls}) == len(choice.message.tool_calls)


def check_stream_helper_with_tools() -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    ask = FORCED | {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(**ask) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    pieces = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    (done,) = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert "".join(piece.arguments_delta for piece in pieces) == done.arguments
    assert isinstance(done.parsed_arguments, GetWeather)
    (call,) = final.choices[0].message.tool_calls
    assert call.id and call.function.name == "get_weather"
    assert call.function.parsed_arguments == done.parsed_arguments


def check_stream_helper_with_response_format() -> None:
    ask = ASK | {"messages": TRIP, "max_tokens": LONG}
    with client.chat.completions.stream(**ask, response_format=Trip, logprobs=True) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    parsed = final.choices[0].message.parsed
    assert isinstance(parsed, Trip)
    assert [e.parsed for e in events if e.type == "content.done"] == [parsed]
    assert any(e.type == "logprobs.content.delta" for e in events)


def check_streamed_tool_call() -> None:
    """A call begins with id, type, name and no arguments; pieces of the arguments follow."""
    with client.chat.completions.create(**FORCED, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    assert chunks[0].delta.role == "assistant"
    assert chunks[-1].finish_reason in ("stop", "tool_calls")
    assert not any(chunk.delta.content for chunk in chunks)
    first, *rest = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (first.index, first.type, first.function.name) == (0, "function", "get_weather")
    assert first.id and not first.function.arguments
    assert rest and all(call.index == 0 and call.id is None for call in rest)
    assert all(call.function.name is None for call in rest)
    assert is_weather("".join(call.function.arguments for call in rest))


def check_tool_round_trip() -> None:
    asked = client.chat.completions.create(**FORCED).choices[0].message
    (call,) = asked.tool_calls
    assert is_weather(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    messages = [*WEATHER, asked, result]
    for choice in ("none", openai.omit):
        ask = FORCED | {"messages": messages, "tool_choice": choice}
        answer = client.chat.completions.create(**ask).choices[0]
        assert answer.message.content or answer.message.tool_calls
        assert choice != "none" or answer.message.content
    ask = ASK | {"messages": messages}
    assert client.chat.completions.create(**ask).choices[0].message.content


def check_json_schema() -> None:
    ask = ASK | {"messages": WEATHER, "response_format": WEATHER_FORMAT, "max_tokens": LONG}
    choice = client.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "stop" and is_weather(choice.message.content)
    with client.chat.completions.create(**ask, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == choice.message.content


def check_logprobs() -> None:
    ask = ASK | {"logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**ask).choices[0]
    tokens = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.startswith(choice.message.content)
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy"
        shown = [top.logprob for top in token.top_logprobs]
        assert shown == sorted(shown, reverse=True)
    with client.chat.completions.create(**ask, stream=True) as stream:
        pieces = [chunk.choices[0].logprobs for chunk in stream if chunk.choices]
    streamed = [token.token for piece in pieces if piece for token in piece.content or ()]
    assert streamed == [token.token for token in tokens]


def check_completions_of_token_ids() -> None:
    text = client.completions.create(**COMPLETE).choices[0].text
    beginning, once = ids_of(BEGINNING), ids_of("Once upon a time")
    ids = client.completions.create(**COMPLETE | {"prompt": beginning})
    assert [choice.text for choice in ids.choices] == [text]
    several = client.completions.create(**COMPLETE | {"prompt": [beginning, once]})
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == text
    assert several.usage.prompt_tokens == len(beginning) + len(once)


def check_echo() -> None:
    text = client.completions.create(**COMPLETE).choices[0].text
    answer = client.completions.create(**COMPLETE, echo=True, logprobs=2).choices[0]
    assert answer.text == BEGINNING + text
    logprobs = answer.logprobs
    assert "".join(logprobs.tokens) == answer.text
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert all(len(tops) >= 2 for tops in logprobs.top_logprobs[1:])
    assert logprobs.text_offset[:2] == [0, len(logprobs.tokens[0])]
    with client.completions.create(**COMPLETE, echo=True, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == answer.text


def check_completion_logprobs() -> None:
    choice = client.completions.create(**COMPLETE, logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    lengths = (len(logprobs.token_logprobs), len(logprobs.top_logprobs), len(logprobs.text_offset))
    assert lengths == (4, 4, 4)
    for token, value, tops in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert tops[token] == value == max(tops.values())
    with client.completions.create(**COMPLETE, logprobs=2, stream=True) as stream:
        pieces = [chunk.choices[0].logprobs for chunk in stream]
    streamed = [token for piece in pieces if piece for token in piece.tokens]
    offsets = [offset for piece in pieces if piece for offset in piece.text_offset]
    assert (streamed, offsets) == (logprobs.tokens, logprobs.text_offset)


def check_embeddings() -> None:
    texts = ["A cat sat on the mat.", "Paris"]
    floats = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [entry.index for entry in floats.data] == [0, 1]
    assert floats.usage.prompt_tokens == floats.usage.total_tokens > 2
    raw = client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    decoded = [list(array("f", b64decode(str(entry.embedding)))) for entry in raw.data]
    # The client itself asks for base64 and decodes it.
    default = client.embeddings.create(model=MODEL, input=texts)
    for one, other, third in zip(floats.data, decoded, default.data, strict=True):
        assert len(one.embedding) == len(other) == len(third.embedding) > 100
        assert all(abs(a - b) < 1e-6 for a, b in zip(one.embedding, other, strict=True))
        assert all(abs(a - b) < 1e-6 for a, b in zip(third.embedding, other, strict=True))
    ids = client.embeddings.create(model=MODEL, input=[ids_of(BEGINNING)])
    text = client.embeddings.create(model=MODEL, input=BEGINNING)
    pairs = zip(ids.data[0].embedding, text.data[0].embedding, strict=True)
    assert all(abs(a - b) < 1e-4 for a, b in pairs)


def check_models() -> None:
    (entry,) = client.models.list()
    assert entry.id == MODEL and entry.object == "model"
    assert client.models.retrieve(MODEL) == entry


def check_errors() -> None:
    create: Any = client.chat.completions.create
    for more, code, param in (
        ({"temperature": 7}, "invalid_value", "temperature"),
        ({"max_tokens": 10**6}, "context_length_exceeded", None),
        ({"tool_choice": "required"}, None, "tool_choice"),
        ({"top_logprobs": 2}, None, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, None, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, None, "response_format.json_schema"),
        ({"messages": []}, None, "messages"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
    ):
        for stream in (False, True):
            try:
                create(**ASK | more, stream=stream)
            except openai.BadRequestError as error:
                assert error.type == "invalid_request_error" and error.request_id, more
                assert code in (None, error.code), (more, error.code)
                assert param in (None, error.param), (more, error.param)
            else:
                raise AssertionError(f"accepted: {more}")
    calls: list[Callable[[], Any]] = [
        lambda: create(**ASK | {"model": "gpt-4o"}),
        lambda: client.embeddings.create(model="gpt-4o", input="x"),
        lambda: client.models.retrieve("gpt-4o"),
    ]
    for call in calls:
        try:
            call()
        except openai.NotFoundError as error:
            assert (error.code, error.param) == ("model_not_found", "model"), error
        else:
            raise AssertionError("there is no such model")


async def check_async() -> None:
    async with asynchronous() as client:
        first, second, models, vectors = await asyncio.gather(
            client.chat.completions.create(**ASK),
            client.completions.create(**COMPLETE, logprobs=1),
            client.models.list(),
            client.embeddings.create(model=MODEL, input="Paris"),
        )
        assert first.choices[0].message.content == ANSWER
        assert len(second.choices[0].logprobs.tokens) == 4
        assert models.data[0].id == MODEL
        assert vectors.data[0].embedding
        stream = await client.chat.completions.create(**ASK, stream=True)
        async with stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == first.choices[0].message.content
        raw = await client.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-request-id"]


async def check_async_structured() -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    forced = FORCED | {
        "tools": tools, "tool_choice": "required", "parallel_tool_calls": False,
    }  # fmt: skip
    async with asynchronous() as client:
        parsed = await client.chat.completions.parse(
            **ASK | {"messages": WEATHER, "max_tokens": LONG}, response_format=GetWeather
        )
        assert isinstance(parsed.choices[0].message.parsed, GetWeather)
        async with client.chat.completions.stream(**forced) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_completion()
        assert "tool_calls.function.arguments.done" in kinds
        (call,) = final.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, GetWeather)
