"""litellm, which many gateways and agents call OpenAI-style servers with."""

from typing import Any

import litellm

from tests.clients.subjects import (
    ANSWER,
    BEGINNING,
    CONTINUATION,
    MODEL,
    PARIS,
    TIMEOUT_S,
    TRIP,
    URL,
    WEATHER,
    WEATHER_FORMAT,
    WEATHER_TOOL,
    Trip,
    is_weather,
)

OPTIONS: dict[str, Any] = {
    "api_base": URL,
    "api_key": "none",
    "timeout": TIMEOUT_S,
    "max_retries": 0,
    "num_retries": 0,
}
ASK: dict[str, Any] = {
    **OPTIONS,
    "model": f"openai/{MODEL}",
    "messages": PARIS,
    "temperature": 0,
    "max_tokens": 24,
}
FORCED: dict[str, Any] = {
    **ASK,
    "messages": WEATHER,
    "tools": [WEATHER_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 400,
}
PROVIDERS = ("openai", "hosted_vllm", "custom_openai")
"""What users of other servers write in front of the model's name."""


def check_completion() -> None:
    texts = set()
    for provider in PROVIDERS:
        answer = litellm.completion(**ASK | {"model": f"{provider}/{MODEL}"})
        (choice,) = answer.choices
        assert choice.finish_reason in ("stop", "length")
        assert answer.usage.completion_tokens > 0
        texts.add(choice.message.content)
    assert texts == {ANSWER}


def check_stream() -> None:
    whole = litellm.completion(**ASK)
    chunks = list(litellm.completion(**ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    built = litellm.stream_chunk_builder(chunks, messages=PARIS)
    assert built.usage.completion_tokens == whole.usage.completion_tokens
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


async def check_async() -> None:
    stream = await litellm.acompletion(**ASK, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    answer = await litellm.acompletion(**ASK)
    assert text == answer.choices[0].message.content


def check_tools() -> None:
    (choice,) = litellm.completion(**FORCED).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert call.function.name == "get_weather" and is_weather(call.function.arguments)


def check_streamed_tools() -> None:
    chunks = list(litellm.completion(**FORCED, stream=True))
    built = litellm.stream_chunk_builder(chunks, messages=WEATHER)
    (call,) = built.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and is_weather(call.function.arguments)
    assert built.choices[0].finish_reason == "tool_calls"


def check_tool_round_trip() -> None:
    message = litellm.completion(**FORCED).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees"}
    # As agents do: the message as litellm has it, with whatever fields it adds.
    ask = ASK | {"messages": [*WEATHER, message, result], "tools": [WEATHER_TOOL]}
    answer = litellm.completion(**ask, tool_choice="none")
    assert answer.choices[0].message.content
    ask["messages"] = [*WEATHER, message.model_dump(), result]
    assert litellm.completion(**ask, tool_choice="none").choices[0].message.content


def check_json_schema() -> None:
    ask = ASK | {"messages": WEATHER, "response_format": WEATHER_FORMAT, "max_tokens": 400}
    assert is_weather(litellm.completion(**ask).choices[0].message.content)
    ask = ASK | {"messages": TRIP, "response_format": Trip, "max_tokens": 400}
    Trip.model_validate_json(litellm.completion(**ask).choices[0].message.content)


def check_text_completion() -> None:
    ask = OPTIONS | {"model": f"text-completion-openai/{MODEL}", "prompt": BEGINNING}
    ask |= {"temperature": 0, "max_tokens": 8}
    text = litellm.text_completion(**ask).choices[0].text
    assert text == CONTINUATION
    chunks = litellm.text_completion(**ask, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == text


def check_embedding() -> None:
    ask: dict[str, Any] = {**OPTIONS, "model": f"openai/{MODEL}", "input": ["Paris", "London"]}
    for encoding in ("float", "base64", None):
        answer = litellm.embedding(**ask, encoding_format=encoding)
        assert [entry["index"] for entry in answer.data] == [0, 1]
        assert answer.usage.prompt_tokens > 0


def check_errors() -> None:
    for more, kind in (
        ({"max_tokens": 10**6}, litellm.ContextWindowExceededError),
        ({"messages": [{"role": "user", "content": "x y " * 20_000}]},
         litellm.ContextWindowExceededError),
        ({"temperature": 7}, litellm.BadRequestError),
        ({"model": "openai/other"}, litellm.NotFoundError),
    ):  # fmt: skip
        for stream in (False, True):
            try:
                list(litellm.completion(**ASK | more, stream=stream))
            except kind as error:
                assert isinstance(error, kind)
            else:
                raise AssertionError(f"accepted: {more}")
