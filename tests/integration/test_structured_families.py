"""Structured output of every family, over its own vocabulary: small models that know nothing."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from gateway.answer.constraint import constraint_of
from gateway.answer.pieces import CallArguments, CallBegun
from gateway.answer.reader import CallParser
from gateway.dialects.chat import CHAT
from scripts.benchmarks.schemas import schemas
from tests.models.reference import FOLDER
from tests.serving import Server, served

# One of each family; all but one in the formats from before GGUF.
FILES = (
    "llama-gqa.gguf", "falcon-7b.bin", "gpt2.bin", "mpt-alibi8.bin", "neox-parallel.bin",
    "starcoder-mqa.bin",
)  # fmt: skip
SCHEMAS = list(schemas(6))
N_CTX = 256
AS_THE_MODEL_HAS_IT = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0}


@pytest.fixture(scope="module", params=FILES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    path = FOLDER / request.param
    with served("--workers", "1", "--drain-timeout", "2", MODEL_NAME=str(path)) as server:
        yield server
        server.stop()


def completed(server: Server, seed: int, **body: Any) -> str | None:
    """What is generated; None if it was cut by the end of the context."""
    wanted = {"prompt": "x", "stream": False, "max_tokens": N_CTX - 6, "seed": seed}
    body = {**wanted, **AS_THE_MODEL_HAS_IT, **body}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    text: str = choice["text"]
    return None if choice["finish_reason"] == "length" else text


def test_json_of_a_schema(server: Server) -> None:
    n_whole = 0
    for seed, schema in enumerate(SCHEMAS):
        text = completed(server, seed, guided_json=schema)
        if text is not None:
            n_whole += 1
            jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
    assert n_whole >= 3


def test_calls_of_tools(server: Server) -> None:
    n_whole = 0
    for seed, schema in enumerate(SCHEMAS):
        # The form of calls alone: to tell of the tools takes more tokens than there is context.
        tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": schema}}
                 for i in range(2)]  # fmt: skip
        ask = CHAT.read(
            {"messages": [{"role": "user", "content": "x"}], "tools": tools,
             "tool_choice": "required", "parallel_tool_calls": False}
        )  # fmt: skip
        grammar = constraint_of(ask).grammar
        assert grammar is not None
        text = completed(server, seed, guided_grammar=grammar.source)
        if text is None:
            continue
        n_whole += 1
        begun, *pieces = CallParser().push(text)
        assert isinstance(begun, CallBegun) and begun.name in ("f0", "f1")
        said = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
        jsonschema.validate(json.loads(said), schema, cls=jsonschema.Draft202012Validator)
    assert n_whole >= 3


@pytest.mark.parametrize(
    "regex",
    [r"[A-Z]{2}-[0-9]{3,5}", r"(yes|no|日本|größe 😀)( indeed)?\.", r"[a-zé]{5,10}\n\t[^a-z]{3}"],
)
def test_a_regular_expression(server: Server, regex: str) -> None:
    for seed in range(3):
        text = completed(server, seed, guided_regex=regex)
        assert text is not None and re.fullmatch(regex, text), text
    whole = completed(server, 0, guided_regex=regex, temperature=0)
    assert whole is not None and re.fullmatch(regex, whole)


def test_a_choice(server: Server) -> None:
    choices = ["a", "ab", "é", "日本語", "😀", 'q"\\', " ", "\n"]
    said = {completed(server, seed, guided_choice=choices) for seed in range(8)}
    assert said <= set(choices) and len(said) > 1


def asked_for(server: Server, ids: list[int], token: int) -> float:
    """How likely a token is behind others, by forcing it: a bias does not change what is told."""
    body = {"prompt": ids, "max_tokens": 1, "logprobs": 0, "logit_bias": {str(token): 100},
            "temperature": 0, "stream": False}  # fmt: skip
    (choice,) = server.http.post("/v1/completions", json=body).json()["choices"]
    (value,) = choice["logprobs"]["token_logprobs"]
    return float(value)


def test_what_is_told_of_a_prompt_is_what_is_told_token_by_token(server: Server) -> None:
    body = {"prompt": "Once upon", "max_tokens": 4, "echo": True, "logprobs": 3,
            "stream": False, "temperature": 0}  # fmt: skip
    (choice,) = server.http.post("/v1/completions", json=body).json()["choices"]
    told = choice["logprobs"]
    tokens = server.http.post("/tokenize", json={"prompt": "Once upon"}).json()["tokens"]
    plain = server.http.post("/tokenize", json={"content": "Once upon"}).json()["tokens"]
    begin = len(tokens) - len(plain)  # what is put in front of every prompt
    values = told["token_logprobs"]
    assert len(values) == len(plain) + 4
    assert (values[0] is None) == (begin == 0)
    # The same as token ids is told of alike, whatever is cached.
    ids = {**body, "prompt": tokens}
    (again,) = server.http.post("/v1/completions", json=ids).json()["choices"]
    assert again["logprobs"]["token_logprobs"][begin:] == values
    assert again["logprobs"]["tokens"][begin:] == told["tokens"]
    for place in range(max(1, begin), len(tokens)):
        alone = asked_for(server, tokens[:place], tokens[place])
        assert alone == pytest.approx(values[place - begin], abs=1e-5), place
    for name, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert name.startswith("bytes:") or choice["text"].startswith(name, offset)
