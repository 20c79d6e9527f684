"""``/v1/embeddings``: what is asked of the pool, and what becomes of the vectors."""

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from gateway.pool.base import DEFAULT_TERMS, Terms
from shared.messages import Event, Failed, Finished, Generate, Prepare, Prepared, Question, Text
from tests.unit.gateway.fakes import (
    CONFIG,
    MODEL,
    READY,
    Script,
    ScriptedPool,
    bytewise,
    error,
    post,
    prefilled,
)

PATH = "/v1/embeddings"
EMBEDS = replace(READY, model=replace(MODEL, n_embd=4))


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def vector_of(generation: Generate) -> tuple[float, ...]:
    """One that tells which text it is of."""
    first = next(token for token in generation.ids if token < 256)
    return (float(first), 0.0, 1.0, -2.0)


def embeds(generation: Generate) -> list[Event]:
    vector = packed(*vector_of(generation))
    done = Finished(generation.request_id, "stop", 0, 1.0, vector)
    return [prefilled(generation), done]


def pool_of(script: Script = embeds) -> ScriptedPool:
    return ScriptedPool(script, EMBEDS)


def embed(body: dict[str, Any], pool: ScriptedPool) -> Any:
    response = post(pool, PATH, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def test_a_family_without_embeddings_says_which_have_some() -> None:
    for family in ("starcoder", "mpt", "gpt2", "gpt_neox"):
        status = replace(READY, model=replace(MODEL, family=family))
        response = post(ScriptedPool(embeds, status), PATH, {"input": "a"})
        assert error(response) == (400, "unsupported_parameter", "model")
        message = response.json()["error"]["message"]
        assert f"({family})" in message and "LLaMA and Falcon" in message


@pytest.mark.parametrize(("given", "param"), [("bad", "input"), (["a", "bad", "c"], "input[1]")])
def test_a_text_that_fails_is_named(given: Any, param: str) -> None:
    def oracle(question: Question) -> Prepared | Failed:
        assert isinstance(question, Prepare) and isinstance(question.prompt, Text)
        if question.prompt.text != "bad":
            return bytewise(question)
        return Failed(question.request_id, "invalid_prompt", "No.", question.param)

    pool = ScriptedPool(embeds, EMBEDS, oracle)
    assert error(post(pool, PATH, {"input": given})) == (400, "invalid_prompt", param)
    response = post(pool_of(), PATH, {"input": [[97], [98] * 100]})
    assert response.status_code == 200, "no room is needed for an answer"


def test_what_is_nothing_but_what_was_cut_off_stays_nothing() -> None:
    nothing = pool_of(lambda r: [Finished(r.request_id, "stop", 0, 1.0, packed(0, 0, 0, 1))])
    assert embed({"input": "a", "dimensions": 2}, nothing)["data"][0]["embedding"] == [0, 0]


class CountingPool(ScriptedPool):
    """Notes how many run at once."""

    running = most = 0

    async def generate(
        self,
        request: Generate,
        terms: Terms = DEFAULT_TERMS,
    ) -> AsyncGenerator[Event, None]:
        assert terms.is_whole
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            async for event in super().generate(request, terms):
                yield event
        finally:
            self.running -= 1


def test_more_texts_than_the_pool_can_take_go_through_it_bit_by_bit() -> None:
    pool = CountingPool(embeds, EMBEDS)
    texts = [chr(97 + i % 26) for i in range(50)]
    answer = embed({"input": texts}, pool)
    assert [entry["embedding"][0] for entry in answer["data"]] == [ord(text) for text in texts]
    assert [entry["index"] for entry in answer["data"]] == list(range(50))
    assert (pool.most, pool.running) == (CONFIG.workers, 0)
    assert answer["usage"] == {"prompt_tokens": 250, "total_tokens": 250}
