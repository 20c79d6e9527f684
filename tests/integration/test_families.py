"""Every family over HTTP: small models say what the transformers library says, to the token.

What variants of a family compute is compared in tests/unit/worker/test_engine_families.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden.tokens import TOKENS_OF_LINES, tokens_of_lines
from tests.made_schemas import schemas
from tests.models.reference import FOLDER, Reference, references, tokenized_texts
from tests.models.source import read_safetensors
from tests.serving import Server, served

# One of each family, and Falcon's in both formats.
FILES = (
    "llama-gqa.gguf", "falcon-7b.bin", "falcon-11b.gguf", "gpt2.bin", "mpt-alibi8.bin",
    "neox-parallel.bin", "starcoder-mqa.bin",
)  # fmt: skip
CASES = [
    (reference, path)
    for reference in references().values()
    for path in reference.paths
    if path.name in FILES
]
SCHEMAS = list(schemas(6))
N_CTX = 256
AS_THE_MODEL_HAS_IT = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0}


class Case:
    """A model's file, served by two workers."""

    def __init__(self, reference: Reference, path: Path, server: Server) -> None:
        self.reference = reference
        self.path = path
        self.server = server

    def complete(self, prompt: str | None = None) -> dict[str, Any]:
        """A greedy answer of 32 tokens, by default to the reference's prompt."""
        body = {
            "model": self.server.model,
            "prompt": self.reference.prompt if prompt is None else prompt,
            "max_tokens": len(self.reference.greedy_ids),
            "temperature": 0,
        }
        response = self.server.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[1].name)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    reference, path = request.param
    with served("--workers", "2", "--drain-timeout", "2", MODEL_NAME=str(path)) as server:
        yield Case(reference, path, server)
        server.stop()


def said(answer: dict[str, Any]) -> tuple[str, int, int]:
    """Text, and numbers of tokens."""
    usage = answer["usage"]
    return answer["choices"][0]["text"], usage["prompt_tokens"], usage["completion_tokens"]


def test_greedy_text_is_the_reference(case: Case) -> None:
    reference = case.reference
    expected = (reference.greedy_text, len(reference.prompt_ids), len(reference.greedy_ids))
    fresh = case.complete()
    assert said(fresh) == expected
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # The second request finds the first one's prompt in its worker's cache, but for the last token.
    again = case.complete()
    assert said(again) == expected
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    # What ggcc files' cache holds cannot be continued exactly, so it is not.
    is_ggcc = case.path.read_bytes()[:4] == b"ccgg"
    assert cached == (0 if is_ggcc else len(reference.prompt_ids) - 1)


def test_the_context_ends_where_the_model_does(case: Case) -> None:
    models = case.server.http.get("/v1/models").json()["data"]
    n_ctx = models[0]["max_model_len"]
    body = {"model": models[0]["id"], "prompt": "a " * 8 * n_ctx, "max_tokens": 1}
    response = case.server.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_tokens_are_those_of_the_reference(case: Case) -> None:
    http = case.server.http
    for each in tokenized_texts(case.reference.family):
        text, ids = each.text, each.ids
        answer = http.post("/tokenize", json={"prompt": text}).json()
        assert (answer["tokens"], answer["count"]) == (ids, len(ids)), text
        plain = http.post("/tokenize", json={"content": text, "parse_special": False}).json()
        back = http.post("/detokenize", json={"tokens": plain["tokens"]}).json()["content"]
        assert back == text
    assert tokens_of_lines(case.server) == TOKENS_OF_LINES[case.reference.family]
    model = http.get("/v1/models").json()["data"][0]
    outside = http.post("/detokenize", json={"tokens": [0, model["n_vocab"]]})
    assert outside.json()["error"]["param"] == "tokens[1]"
    everything = http.post("/detokenize", json={"tokens": list(range(model["n_vocab"]))})
    assert everything.status_code == 200


def hidden_state(reference: Reference, at: int) -> NDArray[np.float64]:
    """What the output layer turned into the logits behind so many greedy tokens; of length 1."""
    weights = read_safetensors(FOLDER / "hf" / reference.name / "model.safetensors")
    names = ("lm_head.weight", "transformer.word_embeddings.weight")
    head = next(weights[name] for name in names if name in weights).astype(np.float64)
    logits = np.asarray(reference.logits[at])
    state, *_ = np.linalg.lstsq(head[: len(logits)], logits, rcond=None)
    return np.asarray(state / np.linalg.norm(state))


def test_embeddings_are_the_reference_where_there_are_some(case: Case) -> None:
    reference, http = case.reference, case.server.http
    n_embd = http.get("/v1/models").json()["data"][0]["n_embd"]
    places = list(reference.logits)
    prompts = [reference.prompt_ids + reference.greedy_ids[:at] for at in places]
    response = http.post("/v1/embeddings", json={"input": prompts})
    if reference.family not in ("llama", "falcon"):
        error = response.json()["error"]
        assert (response.status_code, n_embd, error["param"]) == (400, 0, "model")
        assert error["code"] == "unsupported_parameter" and "LLaMA and Falcon" in error["message"]
        return
    embeddings = [entry["embedding"] for entry in response.json()["data"]]
    assert [len(embedding) for embedding in embeddings] == [n_embd] * len(places)
    for at, embedding in zip(places, embeddings, strict=True):
        assert np.abs(embedding - hidden_state(reference, at)).max() < 1e-3, at
    # By its text, whatever was cached: of the same tokens, the same to the bit.
    text = {"input": reference.prompt}
    assert http.post("/v1/embeddings", json=text).json()["data"][0]["embedding"] == embeddings[0]


def completed(case: Case, seed: int, **body: Any) -> str | None:
    """What is generated; None if it was cut by the end of the context."""
    wanted = {"prompt": "x", "stream": False, "max_tokens": N_CTX - 6, "seed": seed}
    body = {**wanted, **AS_THE_MODEL_HAS_IT, **body}
    answer = case.server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    text: str = choice["text"]
    return None if choice["finish_reason"] == "length" else text


def test_json_of_a_schema(case: Case) -> None:
    n_whole = 0
    for seed, schema in enumerate(SCHEMAS):
        text = completed(case, seed, guided_json=schema)
        if text is not None:
            n_whole += 1
            jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
    assert n_whole >= 3


@pytest.mark.parametrize(
    "regex",
    [r"[A-Z]{2}-[0-9]{3,5}", r"(yes|no|日本|größe 😀)( indeed)?\.", r"[a-zé]{5,10}\n\t[^a-z]{3}"],
)
def test_a_regular_expression(case: Case, regex: str) -> None:
    for seed in range(3):
        text = completed(case, seed, guided_regex=regex)
        assert text is not None and re.fullmatch(regex, text), text
    whole = completed(case, 0, guided_regex=regex, temperature=0)
    assert whole is not None and re.fullmatch(regex, whole)


def asked_for(case: Case, ids: list[int], token: int) -> float:
    """How likely a token is behind others, by forcing it: a bias does not change what is told."""
    body = {"prompt": ids, "max_tokens": 1, "logprobs": 0, "logit_bias": {str(token): 100},
            "temperature": 0, "stream": False}  # fmt: skip
    (choice,) = case.server.http.post("/v1/completions", json=body).json()["choices"]
    (value,) = choice["logprobs"]["token_logprobs"]
    return float(value)


def test_what_is_told_of_a_prompt_is_what_is_told_token_by_token(case: Case) -> None:
    body = {"prompt": "Once upon", "max_tokens": 4, "echo": True, "logprobs": 3,
            "stream": False, "temperature": 0}  # fmt: skip
    (choice,) = case.server.http.post("/v1/completions", json=body).json()["choices"]
    told = choice["logprobs"]
    tokens = case.server.http.post("/tokenize", json={"prompt": "Once upon"}).json()["tokens"]
    plain = case.server.http.post("/tokenize", json={"content": "Once upon"}).json()["tokens"]
    begin = len(tokens) - len(plain)  # what is put in front of every prompt
    values = told["token_logprobs"]
    assert len(values) == len(plain) + 4
    assert (values[0] is None) == (begin == 0)
    # The same as token ids is told of alike, whatever is cached.
    ids = {**body, "prompt": tokens}
    (again,) = case.server.http.post("/v1/completions", json=ids).json()["choices"]
    assert again["logprobs"]["token_logprobs"][begin:] == values
    assert again["logprobs"]["tokens"][begin:] == told["tokens"]
    for place in range(max(1, begin), len(tokens)):
        alone = asked_for(case, tokens[:place], tokens[place])
        assert alone == pytest.approx(values[place - begin], abs=1e-5), place
    for name, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert name.startswith("bytes:") or choice["text"].startswith(name, offset)
