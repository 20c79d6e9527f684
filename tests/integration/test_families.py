"""Every family over HTTP: small models say what the transformers library says, to the token."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.models.reference import Reference, references
from tests.serving import Server, served

CASES = [(reference, path) for reference in references().values() for path in reference.paths]


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


def test_another_prompt_between_changes_nothing(case: Case) -> None:
    prompt = case.reference.prompt
    expected = said(case.complete())
    for other in (prompt[: len(prompt) // 2], "something else", prompt + "!", prompt[1:]):
        case.complete(other)
        assert said(case.complete()) == expected


def test_two_workers_at_once_say_the_same(case: Case) -> None:
    expected = said(case.complete())
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: case.complete(), range(6)))
    assert [said(answer) for answer in answers] == [expected] * 6


def test_the_context_ends_where_the_model_does(case: Case) -> None:
    models = case.server.http.get("/v1/models").json()["data"]
    n_ctx = models[0]["max_model_len"]
    body = {"model": models[0]["id"], "prompt": "a " * 8 * n_ctx, "max_tokens": 1}
    response = case.server.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
