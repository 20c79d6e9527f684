"""The demo model's tokens are those that it is charged for, and its embeddings do not vary."""

import base64
import math
import struct
from typing import Any

import pytest

from tests.golden.tokens import TOKENS_OF_LINES, tokens_of_lines
from tests.serving import Server, chat

TEXTS = [
    "Hello, world!",
    "  two  spaces\tand tabs\r\n\n\n    next",
    "naïve Ünïcödé 日本語 — “quotes” 🙂👩‍👩‍👧",
    "def mean(values):\n    return sum(values) / len(values)  # 1234567890\n",
    "a<|im_end|>b",
    "\0\x01",
]


def post(server: Server, path: str, **body: Any) -> Any:
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def vectors(server: Server, given: Any, **more: Any) -> list[Any]:
    data = post(server, "/v1/embeddings", input=given, **more)["data"]
    return [entry["embedding"] for entry in data]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_survives_being_tokenized(demo_server: Server, text: str) -> None:
    for parse_special in (True, False):
        answer = post(demo_server, "/tokenize", content=text, parse_special=parse_special)
        assert answer["count"] == len(answer["tokens"])
        back = post(demo_server, "/detokenize", tokens=answer["tokens"])
        assert back == {"content": text, "prompt": text}


def test_the_tokens_of_many_lines(demo_server: Server) -> None:
    assert tokens_of_lines(demo_server) == TOKENS_OF_LINES["demo"]


def test_what_is_counted_is_what_is_charged(demo_server: Server) -> None:
    for text in TEXTS[2:5]:
        body = chat(text, max_tokens=1)
        body["messages"].insert(0, {"role": "system", "content": "Be brief."})
        usage = post(demo_server, "/v1/chat/completions", **body, stream=False)["usage"]
        counted = post(demo_server, "/v1/chat/completions/input_tokens", **body)
        tokenized = post(demo_server, "/tokenize", messages=body["messages"])
        assert usage["prompt_tokens"] == counted["input_tokens"] == tokenized["count"]
        prompt = post(demo_server, "/apply-template", messages=body["messages"])["prompt"]
        assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
        as_text = {"model": demo_server.model, "prompt": text, "max_tokens": 1}
        usage = post(demo_server, "/v1/completions", **as_text)["usage"]
        assert usage["prompt_tokens"] == post(demo_server, "/tokenize", prompt=text)["count"]


def test_tools_are_counted_too(demo_server: Server) -> None:
    function = {"name": "look", "description": "Look something up.", "parameters": {}}
    body = chat("Hi", max_tokens=1, tools=[{"type": "function", "function": function}])
    usage = post(demo_server, "/v1/chat/completions", **body, stream=False)["usage"]
    for path, count in (
        ("/v1/chat/completions/input_tokens", "input_tokens"),
        ("/tokenize", "count"),
    ):
        assert post(demo_server, path, **body)[count] == usage["prompt_tokens"]


def test_the_model_is_described(demo_server: Server) -> None:
    (entry,) = demo_server.http.get("/v1/models").json()["data"]
    assert (entry["n_embd"], entry["n_vocab"], entry["n_ctx_train"]) == (576, 49152, 8192)
    assert entry["quantisation"]
    props = demo_server.http.get("/props").json()
    assert props["model_path"].endswith(".gguf") and "/" not in props["model_path"]
    assert props["eos_token"] == "<|im_end|>" and "<|im_start|>" in props["chat_template"]
    assert props["default_generation_settings"]["n_ctx"] == entry["max_model_len"]


def test_embeddings_have_length_one_and_any_number_of_dimensions(demo_server: Server) -> None:
    (one,) = vectors(demo_server, "Hello")
    assert len(one) == 576 and math.hypot(*one) == pytest.approx(1, abs=1e-6)
    (packed,) = vectors(demo_server, "Hello", encoding_format="base64")
    assert list(struct.unpack("<576f", base64.b64decode(packed))) == one
    for dimensions in (1, 64, 576):
        (short,) = vectors(demo_server, "Hello", dimensions=dimensions)
        length = math.hypot(*one[:dimensions])
        assert short == pytest.approx([number / length for number in one[:dimensions]], abs=1e-6)
        assert math.hypot(*short) == pytest.approx(1, abs=1e-6)


def test_embeddings_are_the_same_whatever_was_cached(demo_server: Server) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 2
    (first,) = vectors(demo_server, text)
    for between in (text, text[:60], text + "And then?", "Something else entirely."):
        vectors(demo_server, [between, between])
        assert vectors(demo_server, [text, text]) == [first, first]
    ids = post(demo_server, "/tokenize", prompt=text)["tokens"]
    assert vectors(demo_server, ids) == vectors(demo_server, [ids]) == [first]


def test_several_texts_are_as_each_alone(demo_server: Server) -> None:
    texts = ["Hello", "A cat sat on the mat.", "A cat sat on a mat.", "Interest rates rise."]
    several = vectors(demo_server, texts)
    assert several == [vectors(demo_server, text)[0] for text in texts]
    cat, mat, rates = several[-3:]

    def likeness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert likeness(cat, mat) > likeness(cat, rates)
