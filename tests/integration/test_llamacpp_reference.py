"""What this server computes is what llama.cpp's own computes, with the same library and file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from scripts.llama_server import llama_server
from scripts.models.large import gemma
from tests.gguf_files import U32
from tests.gguf_kinds import tiny
from tests.serving import START_S, Server, served

# The order of a sequence's cells in the cache changes its logits by so much (measured: 0.4 to 0.6).
TIE = 0.6
N_TOKENS = 16
LINES_AT_ONCE = 100
LINES = (Path(__file__).parents[1] / "data/lines.txt").read_text("utf-8").split("\n")[:-1]
PROMPTS = (
    "The capital of France is", "Once upon a time, in a small village", "def fibonacci(n):",
    "Water boils at", "1, 2, 3, 4,", "Dear Sir or Madam,", "The three primary colours are",
    "import numpy as np\n\n", "To make a good cup of tea, you", "<html>\n<head>\n",
    "Q: What is the largest planet?\nA:", "In 1969, two men", "The opposite of hot is",
    "Roses are red, violets are", "SELECT name FROM users WHERE", "My favourite book is",
    "A prime number is a number that", "Monday, Tuesday, Wednesday,", "Il était une fois",
    "The quick brown fox jumps over",
)  # fmt: skip


@pytest.fixture(scope="module")
def reference(demo_model: Path) -> Iterator[httpx.Client]:
    with peer(demo_model) as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served("--workers", "1", SLOTS="8") as server:
        yield server
        server.stop()


def test_greedy_texts_of_one_batch_are_those_of_the_librarys_server(
    server: Server, reference: httpx.Client
) -> None:
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        ours = list(threads.map(lambda prompt: greedy(server.http, prompt), PROMPTS))
    assert_same(ours, [greedy(reference, prompt) for prompt in PROMPTS])


def test_greedy_texts_of_gemma_are_those_of_the_librarys_server() -> None:
    """One after the other and each prompt whole: with other rows Gemma has other kernels."""
    path, prompts = gemma(), PROMPTS[:4]
    with peer(path) as reference:
        theirs = [greedy(reference, prompt)["text"] for prompt in prompts]
    with served("--workers", "1", MODEL_NAME=str(path), CONTEXT_LENGTH="512") as server:
        assert [greedy(server.http, prompt)["text"] for prompt in prompts] == theirs
        server.stop()


def test_ids_of_lines_are_those_of_the_librarys_server(
    server: Server, reference: httpx.Client
) -> None:
    assert len(LINES) == 2000
    for at in range(0, len(LINES), LINES_AT_ONCE):
        body = {"content": "\n".join(LINES[at : at + LINES_AT_ONCE]), "add_special": True}
        ours, theirs = (
            client.post("/tokenize", json=body).json()["tokens"]
            for client in (server.http, reference)
        )
        assert len(ours) > LINES_AT_ONCE and ours == theirs, f"lines from {at} on"


@pytest.mark.parametrize(("architecture", "pooling"), [("bert", 1), ("bert", 2), ("qwen3", 3)])
def test_embeddings_are_those_of_the_librarys_server(
    tmp_path: Path, architecture: str, pooling: int
) -> None:
    draft = tiny(architecture)
    draft.metadata[f"{architecture}.pooling_type"] = (U32, pooling)
    path = draft.write(tmp_path / "model.gguf")
    body = {"model": "model", "input": ["hello world", "the cat sat on a mat", "hello"]}
    with llama_server(str(path), n_ctx=512, embeds=True) as peer:
        theirs = vectors(httpx.post(f"{peer.url}/v1/embeddings", json=body))
    with served("--workers", "1", MODEL_NAME=str(path)) as server:
        ours = vectors(server.http.post("/v1/embeddings", json=body))
        server.stop()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(ours[0] - ours[1]).max() > 1e-2


@contextmanager
def peer(model: Path) -> Iterator[httpx.Client]:
    with (
        llama_server(str(model), checkpoints=0) as server,
        httpx.Client(base_url=server.url, timeout=START_S) as client,
    ):
        yield client


def greedy(client: httpx.Client, prompt: str) -> Any:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": N_TOKENS, "ignore_eos": True,
            "stream": False, "logprobs": 2}  # fmt: skip
    return client.post("/v1/completions", json=body).json()["choices"][0]


def assert_same(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """Texts are equal; those that part do so where two tokens are as good as equal."""
    parted = [pair for pair in zip(ours, theirs, strict=True) if pair[0]["text"] != pair[1]["text"]]
    assert len(parted) <= len(ours) // 2
    for our, their in parted:
        assert margin_where_they_part(our, their["text"]) < TIE, (our["text"], their["text"])


def margin_where_they_part(our: Any, their_text: str) -> float:
    """How much likelier our token was than the next one, where the texts first differ."""
    pairs = zip(our["text"], their_text, strict=False)
    n_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    logprobs = our["logprobs"]
    ends = accumulate(map(len, logprobs["tokens"]))
    at = next(index for index, end in enumerate(ends) if end > n_same)
    best, second = sorted(logprobs["top_logprobs"][at].values(), reverse=True)[:2]
    return float(best - second)


def vectors(answer: httpx.Response) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([item["embedding"] for item in answer.json()["data"]])
