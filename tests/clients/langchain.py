"""LangChain's classes for OpenAI."""

import math
from typing import Any

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.clients.subjects import (
    ANSWER,
    ASK_TRIP,
    ASK_WEATHER,
    BEGINNING,
    CONTINUATION,
    JSON_QUESTION,
    MODEL,
    QUESTION,
    TIMEOUT_S,
    URL,
    GetWeather,
    Trip,
    is_weather,
)

OPTIONS: dict[str, Any] = {
    "base_url": URL,
    "api_key": "none",
    "model": MODEL,
    "max_retries": 0,
    "timeout": TIMEOUT_S,
}
chat: Any = ChatOpenAI(**OPTIONS, temperature=0, max_completion_tokens=400, stream_usage=True)
brief: Any = ChatOpenAI(**OPTIONS, temperature=0, max_completion_tokens=24, stream_usage=True)


def check_invoke_and_stream() -> None:
    answer = brief.invoke(QUESTION)
    assert answer.text == ANSWER
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    chunks = list(brief.stream(QUESTION))
    assert "".join(chunk.text for chunk in chunks) == answer.text
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["total_tokens"] == answer.usage_metadata["total_tokens"]


async def check_async() -> None:
    text = "".join([chunk.text async for chunk in brief.astream(QUESTION)])
    assert text == (await brief.ainvoke(QUESTION)).text


def check_tools() -> None:
    for choice, more in (
        ("any", {"parallel_tool_calls": False}),
        ("GetWeather", {}),
        ("GetWeather", {"strict": True}),
    ):
        bound = chat.bind_tools([GetWeather], tool_choice=choice, **more)
        answer = bound.invoke(ASK_WEATHER)
        (call,) = answer.tool_calls
        assert call["name"] == "GetWeather" and call["id"] and is_weather(call["args"])
        assert answer.invalid_tool_calls == []


def check_streamed_tools() -> None:
    chunks = list(chat.bind_tools([GetWeather], tool_choice="GetWeather").stream(ASK_WEATHER))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    assert call["name"] == "GetWeather" and is_weather(call["args"])


def check_tool_message_round_trip() -> None:
    bound = brief.bind_tools([GetWeather])
    asked = chat.bind_tools([GetWeather], tool_choice="GetWeather").invoke(ASK_WEATHER)
    result = ToolMessage("21 degrees", tool_call_id=asked.tool_calls[0]["id"])
    messages = [HumanMessage(ASK_WEATHER), asked, result]
    assert brief.invoke(messages).text
    answer = bound.invoke(messages)
    assert answer.text or answer.tool_calls


def check_structured_output() -> None:
    for kind, question, method, strict in (
        (Trip, ASK_TRIP, "json_schema", None),
        (Trip, ASK_TRIP, "function_calling", None),
        (GetWeather, ASK_WEATHER, "function_calling", True),
    ):
        runnable = chat.with_structured_output(kind, method=method, strict=strict, include_raw=True)
        answer = runnable.invoke(question)
        assert answer["parsing_error"] is None and isinstance(answer["parsed"], kind), method


def check_structured_output_by_json_mode() -> None:
    answer = chat.with_structured_output(None, method="json_mode").invoke(JSON_QUESTION)
    assert isinstance(answer, dict)


def check_streamed_structured_output() -> None:
    pieces = list(chat.with_structured_output(GetWeather).stream(ASK_WEATHER))
    assert isinstance(pieces[-1], GetWeather)


def check_completions() -> None:
    complete: Any = OpenAI(**OPTIONS, temperature=0, max_tokens=8)
    text = complete.invoke(BEGINNING)
    assert text == CONTINUATION
    assert "".join(complete.stream(BEGINNING)) == text
    several = OpenAI(**OPTIONS, max_tokens=4, n=2, best_of=3).generate([BEGINNING, "Once"])
    assert [len(choices) for choices in several.generations] == [2, 2]


def check_embeddings() -> None:
    # Else it would fetch a tokenizer of OpenAI's and send token ids of that.
    embed = OpenAIEmbeddings(**OPTIONS, check_embedding_ctx_length=False, chunk_size=2)
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "Interest rates rose."]
    vectors = embed.embed_documents(texts)
    assert len(vectors) == 3 and len({len(vector) for vector in vectors}) == 1
    alone = embed.embed_query(texts[0])
    assert math.dist(alone, vectors[0]) < 1e-3


def check_errors() -> None:
    try:
        chat.bind(max_completion_tokens=10**6).invoke(QUESTION)
    except ContextOverflowError as error:
        assert "context_length_exceeded" in str(error)
    else:
        raise AssertionError("there is no such context")
