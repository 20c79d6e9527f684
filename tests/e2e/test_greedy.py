"""Greedy text over HTTP is the text that ctransformers gives for the same token ids.

With llama.cpp it is compared in tests/integration/test_llamacpp.py.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.model.inspect import inspect
from tests.serving import ROOT, Server, chat, served, streamed, text_of
from worker.prompt.special import SpecialTokens
from worker.tokenizer.tokenizer import build_tokenizer
from worker.tokenizer.vocabulary import Vocabulary

MAX_TOKENS = 32
PROMPTS = [
    "Once upon a time",
    "The three most important inventions of the last century are",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    # Longer than one batch, with characters of several bytes.
    "Ünïcödé 😀 — " + "The quick brown fox jumps over the lazy dog. " * 12,
]


def no_library(text: bytes) -> list[int]:
    raise AssertionError("this model's vocabulary is not SentencePiece")


@pytest.fixture(scope="module")
def server(rewritten_demo: Path) -> Iterator[Server]:
    """Two workers, and room for the prompts that the tests begin with."""
    with served("--workers", "2", ENGINE="ctransformers", PARKED="8") as server:
        yield server
        server.stop()


@pytest.fixture(scope="module")
def expected(rewritten_demo: Path) -> list[str]:
    """What the library says, in a process of its own."""
    file = inspect(rewritten_demo)
    vocabulary = Vocabulary.from_model(file)
    tokenizer = build_tokenizer(file, vocabulary, no_library)
    special = SpecialTokens(vocabulary.special, ())
    work = {
        "model": str(rewritten_demo),
        "prompts": [tokenizer.encode(special.split(prompt)) for prompt in PROMPTS],
        "max_tokens": MAX_TOKENS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.greedy_reference"],
        cwd=ROOT,
        input=json.dumps(work),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    texts: list[str] = json.loads(done.stdout)
    return texts


def complete(server: Server, prompt: str) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0, "stream": False}
    answer: dict[str, Any] = server.http.post("/v1/completions", json=body).json()
    return answer


def test_the_reference_says_something(expected: list[str]) -> None:
    assert len(set(expected)) == len(PROMPTS)
    assert "Paris" in expected[3]
    assert all(len(text) > 10 for text in expected)


def test_greedy_text_is_that_of_the_library(server: Server, expected: list[str]) -> None:
    for prompt, text in zip(PROMPTS, expected, strict=True):
        for turn in range(2):  # the second time the prompt comes from the cache
            answer = complete(server, prompt)
            assert answer["choices"][0]["text"] == text
            usage = answer["usage"]
            if turn:
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                assert cached == usage["prompt_tokens"] - 1


def test_greedy_text_on_all_workers_at_once(server: Server, expected: list[str]) -> None:
    server.wait_until_idle()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda p: complete(server, p), PROMPTS))
    assert [answer["choices"][0]["text"] for answer in answers] == expected
    body = {"prompt": PROMPTS, "max_tokens": MAX_TOKENS, "temperature": 0}
    assert server.http.post("/v1/completions", json=body).json() == expected


def test_many_chats_are_those_alone_and_run_side_by_side(demo_server: Server) -> None:
    questions = ["What is the capital of France?", "Write about dogs.", "Count from one to ten."]
    greedy: dict[str, Any] = {"max_tokens": MAX_TOKENS, "temperature": 0}
    post = demo_server.http.post
    alone = [post("/v1/chat/completions", json=chat(q, **greedy, stream=False)) for q in questions]
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in alone]
    many = {"messages": [chat(question)["messages"] for question in questions], **greedy}
    whole = post("/v2/chat/completions", json={**many, "stream": False}).json()
    assert [choice["message"]["content"] for choice in whole["choices"]] == texts
    with streamed(demo_server, many, "/v2/chat/completions") as stream:
        *chunks, done = stream
    assert done == "[DONE]" and [text_of(chunks, index) for index in range(3)] == texts
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order)
