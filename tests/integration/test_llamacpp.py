"""Tests of llama.cpp behind the server: many streams in a worker, and dying ones."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.base import Terms
from shared.config import WorkerConfig
from shared.messages import Finished, Generate
from shared.sampling import SamplingParams
from tests.gguf_files import Tensor, tiny_llama
from tests.gguf_kinds import tiny
from tests.integration.pools import collect, failure_of, kill, ready, run, running_pid
from tests.serving import Server, chat, run_main, served


@pytest.fixture(scope="module")
def server(demo_model: Path) -> Iterator[Server]:
    with served("--workers", "1", SLOTS="8", PARKED="0") as server:
        yield server
        server.stop()


def test_eight_streams_run_in_one_worker(server: Server) -> None:
    assert server.get("/props")["total_slots"] == 8
    body: dict[str, Any] = chat("Tell me a story.", max_tokens=16, stream=False, n=8, seed=1)
    choices = server.http.post("/v1/chat/completions", json=body).json()["choices"]
    assert len(choices) == 8 and all(choice["message"]["content"] for choice in choices)


def test_a_model_of_embeddings_writes_no_text(tmp_path: Path) -> None:
    path = tiny("bert").write(tmp_path / "bert.gguf")
    with served("--workers", "1", MODEL_NAME=str(path)) as server:
        refused = server.http.post("/v1/chat/completions", json=chat("hello"))
        assert refused.status_code == 400
        assert "gives embeddings, and writes no text" in refused.json()["error"]["message"]
        body = {"model": "bert", "input": ["hello world", "the cat", "hello world"]}
        data = server.http.post("/v1/embeddings", json=body).json()["data"]
        vectors = [item["embedding"] for item in data]
        assert len(vectors[0]) == 32 and vectors[0] == pytest.approx(vectors[2], abs=1e-5)
        assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
        server.stop()


def test_the_reason_of_a_failed_load_is_told(tmp_path: Path) -> None:
    draft = tiny("qwen3")
    del draft.tensors["blk.1.attn_k.weight"]
    done = run_main("--workers", "1", MODEL_NAME=str(draft.write(tmp_path / "bad.gguf")))
    assert done.returncode == 1
    assert "tensor 'blk.1.attn_k.weight' not found" in done.stderr + done.stdout


def test_a_model_on_which_the_library_ends_never_gets_to_a_worker(tmp_path: Path) -> None:
    draft = tiny("bert")
    shape = draft.tensors["token_types.weight"].shape
    draft.tensors["token_types.weight"] = Tensor(shape, bytes(2 * 34), ggml_type=8)
    done = run_main("--workers", "1", MODEL_NAME=str(draft.write(tmp_path / "bad.gguf")))
    assert done.returncode == 1 and "is ready on" not in done.stdout
    assert "killed by SIGABRT" in done.stderr and "unsupported types" in done.stderr


def test_a_worker_that_dies_with_eight_sequences_takes_no_other_request(tmp_path: Path) -> None:
    path = tiny_llama(n_layer=8, n_ctx=4096).write(tmp_path / "llama.gguf")

    async def scenario() -> None:
        config = WorkerConfig("llamacpp", str(path), slots=8, n_ctx=4096)
        async with ready(workers=1, config=config) as pool:
            tasks = [
                asyncio.create_task(
                    collect(pool.generate(Generate(f"{n}", tuple(range(10, 30 + n)),
                                                   SamplingParams(temperature=0),
                                                   max_tokens=300, ignores_eog=True), Terms()))
                )
                for n in range(8)
            ]  # fmt: skip
            await kill(await running_pid(pool))
            for events in await asyncio.gather(*tasks):
                assert isinstance(events[-1], Finished) or failure_of(events) == "worker_crashed"
            after = await collect(
                pool.generate(Generate("after", (10, 11, 12), max_tokens=3), Terms())
            )
            assert isinstance(after[-1], Finished)

    run(scenario())


def test_a_warm_prompt_is_shared_by_all_slots(demo_model: Path) -> None:
    warm = "You are a careful assistant. " * 20
    with served("--workers", "2", SLOTS="2", WARM_PROMPT=warm) as server:
        messages = [{"role": "system", "content": warm}, {"role": "user", "content": "Hi"}]
        body = {"messages": messages, "max_tokens": 2, "n": 4, "stream": False}
        usage = server.http.post("/v1/chat/completions", json=body).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 100
        server.stop()


def test_exact_texts_are_those_of_requests_alone(demo_model: Path) -> None:
    """Whatever runs beside them, and whatever ran before in their slots."""
    with served("--workers", "2", ENGINE="llamacpp", SLOTS="4", CONTEXT_LENGTH="512",
                EXACT="1") as server:  # fmt: skip
        props = server.get("/props")
        assert (props["exact"], props["exact_rows"]) == (True, 63)
        long = "It was a dark and stormy night. " * 34
        prompts = ("Water boils at", "def fibonacci(n):", "Dear Sir or Madam,", "1, 2, 3,")
        bodies = [
            {"prompt": prompt, "seed": 5, "max_tokens": 12, "stream": False, "temperature": 1}
            for prompt in (*prompts, long)
        ]

        def text(body: dict[str, Any]) -> str:
            answer = server.http.post("/v1/completions", json=body).json()
            return str(answer["choices"][0]["text"])

        alone = [text(body) for body in bodies]
        with ThreadPoolExecutor(len(bodies)) as pool:
            assert list(pool.map(text, reversed(bodies))) == alone[::-1]
        server.stop()
