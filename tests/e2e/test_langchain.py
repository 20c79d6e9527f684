"""LangChain's OpenAI classes against the demo model."""

from typing import Any

import pytest
from langchain_openai import ChatOpenAI, OpenAI

from tests.serving import Server


@pytest.fixture
def options(demo_server: Server) -> dict[str, Any]:
    return {
        "base_url": f"{demo_server.url}/v1",
        "api_key": "none",
        "model": demo_server.model,
        "temperature": 0,
        "max_retries": 0,
    }


def test_chat(options: dict[str, Any]) -> None:
    chat = ChatOpenAI(**options, max_completion_tokens=64)
    question = "What is the capital of France?"
    answer = chat.invoke(question)
    assert "Paris" in answer.text
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"
    chunks = list(chat.stream([("human", question)]))
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == answer.text


def test_completions(options: dict[str, Any]) -> None:
    complete = OpenAI(**options, max_tokens=12)
    text = complete.invoke("The capital of France is")
    assert "Paris" in text
    assert "".join(complete.stream("The capital of France is")) == text
    assert len(complete.batch(["Once", "Twice"])) == 2
