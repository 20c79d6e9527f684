"""LlamaIndex's class for OpenAI-style servers."""

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.clients.subjects import (
    ANSWER,
    ASK_TRIP,
    ASK_WEATHER,
    BEGINNING,
    CONTINUATION,
    MODEL,
    QUESTION,
    TIMEOUT_S,
    URL,
    GetWeather,
    Trip,
    Unit,
)

OPTIONS: dict[str, Any] = {
    "model": MODEL,
    "api_base": URL,
    "api_key": "none",
    "context_window": 4096,
    "temperature": 0,
    "max_tokens": 400,
    "max_retries": 0,
    "timeout": TIMEOUT_S,
}
chat = OpenAILike(**OPTIONS, is_chat_model=True, is_function_calling_model=True)
brief = OpenAILike(**OPTIONS | {"max_tokens": 24}, is_chat_model=True)
text_only = OpenAILike(**OPTIONS | {"max_tokens": 8})
structured = OpenAILike(**OPTIONS, is_chat_model=True, should_use_structured_outputs=True)


def weather(city: str, unit: Unit) -> str:
    """Get the weather in a city."""
    return f"21 degrees {unit} in {city}"


TOOL = FunctionTool.from_defaults(weather)


def check_complete() -> None:
    text = text_only.complete(BEGINNING).text
    assert text == CONTINUATION
    assert [piece.text for piece in text_only.stream_complete(BEGINNING)][-1] == text


def check_complete_by_a_chat() -> None:
    answer = brief.complete(QUESTION)
    assert answer.text == ANSWER
    assert answer.additional_kwargs["completion_tokens"] > 0
    assert [piece.text for piece in brief.stream_complete(QUESTION)][-1] == answer.text


def check_chat_and_stream() -> None:
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(content=QUESTION)]
    text = brief.chat(messages).message.content
    assert text
    pieces = list(brief.stream_chat(messages))
    assert "".join(piece.delta or "" for piece in pieces) == text
    assert pieces[-1].message.content == text


async def check_async() -> None:
    messages = [ChatMessage(content=QUESTION)]
    text = (await brief.achat(messages)).message.content
    stream = await brief.astream_chat(messages)
    assert "".join([piece.delta or "" async for piece in stream]) == text
    assert (await text_only.acomplete(BEGINNING)).text


def check_tools() -> None:
    answer = chat.chat_with_tools([TOOL], user_msg=ASK_WEATHER, tool_required=True)
    (call,) = chat.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather" and call.tool_id
    assert set(call.tool_kwargs) == {"city", "unit"}
    assert call.tool_kwargs["unit"] in ("celsius", "fahrenheit")


def check_streamed_tools() -> None:
    stream = chat.stream_chat_with_tools([TOOL], user_msg=ASK_WEATHER, tool_required=True)
    last = list(stream)[-1]
    (call,) = chat.get_tool_calls_from_response(last)
    assert call.tool_name == "weather" and set(call.tool_kwargs) == {"city", "unit"}


def check_tool_round_trip() -> None:
    question = ChatMessage(content=ASK_WEATHER)
    answer = chat.chat_with_tools([TOOL], user_msg=question, tool_required=True)
    (call,) = chat.get_tool_calls_from_response(answer)
    result = ChatMessage(
        role="tool", content="21 degrees", additional_kwargs={"tool_call_id": call.tool_id}
    )
    assert brief.chat([question, answer.message, result]).message.content


def check_structured_predict_by_function_calling() -> None:
    answer = chat.structured_predict(GetWeather, PromptTemplate("{ask}"), ask=ASK_WEATHER)
    assert isinstance(answer, GetWeather)


def check_structured_predict_by_response_format() -> None:
    trip = structured.structured_predict(Trip, PromptTemplate("{ask}"), ask=ASK_TRIP)
    assert isinstance(trip, Trip)
    pieces = structured.stream_structured_predict(Trip, PromptTemplate("{ask}"), ask=ASK_TRIP)
    assert list(pieces)[-1] == trip
