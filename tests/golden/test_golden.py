"""Answers of the echo engine, to the byte: what clients rely on, whatever is behind it.

``RECORD_GOLDEN=1 pytest tests/golden`` writes ``answers.txt`` anew; look at its diff.
"""

import difflib
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.golden.answers import PATH, blocks
from tests.golden.cases import CHAT, cases, user
from tests.golden.refusals import refusals
from tests.serving import Server, launched

CASES = {**dict(cases()), **dict(refusals())}
KEY, ADMIN_KEY = "the-key-of-alice", "the-key-of-the-admin"
RECORDS = "RECORD_GOLDEN" in os.environ
MAX_QUEUE = 8
HEADERS = (
    "content-type", "cache-control", "allow", "www-authenticate", "retry-after", "x-should-retry",
    "vary", "x-request-id",
)  # fmt: skip
# What differs from run to run: ids, times, and how much was cached.
VOLATILE = [
    (
        re.compile(
            r'"id":"(chatcmpl|cmpl)-[0-9a-f]{32}","object":"([a-z._]+)","created":\d{10},'
            r'"model":"echo","system_fingerprint":"[^"]+"'
        ),
        r"<\1 \2>",
    ),
    (re.compile(r"\bcall_[0-9a-f]{24}\b"), "call_*"),
    (re.compile(r'"created":\d{10}\b'), '"created":0'),
    (re.compile(r'"cached_tokens":\d+'), '"cached_tokens":0'),
    (re.compile(r"ggml-fastapi \d+\.\d+\.\d+"), "ggml-fastapi 0.0.0"),
    # How many run at once is a matter of the engine.
    (re.compile(r'"total_slots":\d+'), '"total_slots":0'),
    (re.compile(r"this server takes \d+"), "this server takes 0"),
    (re.compile(r"\d+ generations do not fit into the queue now, \d+ would"), "* do not fit"),
    (re.compile(r"(?m)^(retry-after: )\d+$"), r"\1*"),
    (re.compile(r"(?m)^(x-request-id: )req-[0-9a-f]{32}$"), r"\1*"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with launched(
        "--workers", "2", "--max-queue", str(MAX_QUEUE), "--drain-timeout", "2",
        MODEL_TYPE="echo", API_KEYS=f"alice:{KEY}", ADMIN_KEY=ADMIN_KEY,
    ) as server:  # fmt: skip
        server.wait_until_ready()
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server
        assert server.deaths() == 0
        server.stop()
        assert "Traceback" not in server.stderr


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, str]]:
    """The answers by the names of their requests; written again if they are recorded."""
    if not RECORDS:
        yield blocks()
        return
    answers: dict[str, str] = {}
    yield answers
    text = "".join(f"=== {name}\n{answer}" for name, answer in answers.items())
    PATH.write_text(text, "utf-8")


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def joined(first: Any, second: Any) -> Any:
    """Two neighbours in a stream as one; None if they cannot be.

    Where a stream is cut into chunks depends on how fast its client is.
    """
    (left, *others), (right, *more) = first["choices"] or [{}], second["choices"] or [{}]
    if others or more or not left or not right:
        return None
    if left["index"] != right["index"] or left["finish_reason"] is not None:
        return None
    if shape(left) != shape(right) or right["finish_reason"] is not None:
        return None
    return {**first, "choices": [summed(left, right)]}


def shape(value: Any) -> Any:
    """What chunks must have in common to be pieces of the same thing."""
    if isinstance(value, dict):
        if set(value) == {"token", "logprob", "bytes", "top_logprobs"}:
            return None
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        calls = [item for item in value if isinstance(item, dict) and "function" in item]
        return [shape(item) for item in calls]
    return type(value)


def summed(left: Any, right: Any) -> Any:
    """Texts and lists one behind the other; what is the same of both once."""
    if isinstance(left, dict):
        return {name: summed(left[name], right[name]) for name in left}
    if isinstance(left, list) and left and isinstance(left[0], dict) and "function" in left[0]:
        return [summed(*pair) for pair in zip(left, right, strict=True)]
    if isinstance(left, str | list):
        return left + right
    assert left == right
    return left


def merged(events: list[Any]) -> list[Any]:
    """The chunks of a stream, choice by choice, in pieces that do not depend on any speed."""

    def place(event: Any) -> int:
        return int(event["choices"][0]["index"]) if event.get("choices") else 1 << 30

    pieces: list[Any] = []
    for event in sorted(events, key=place):
        piece = joined(pieces[-1], event) if pieces and "choices" in event else None
        pieces[-1:] = [*pieces[-1:], event] if piece is None else [piece]
    return pieces


def body_of(answer: httpx.Response) -> str:
    """The body in lines; JSON must be written without spaces, with fields in the order kept."""
    text = answer.content.decode()
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        *events, done, rest = text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        chunks = []
        for event in events:
            chunks.append(json.loads(event.removeprefix("data: ")))
            assert event == f"data: {compact(chunks[-1])}"
        text = "".join(f"data: {compact(chunk)}\n" for chunk in merged(chunks)) + done
    elif text and "text/plain" not in answer.headers.get("content-type", ""):
        assert compact(json.loads(text)) == text
    return text


def told(answer: httpx.Response) -> str:
    """The answer as ``answers.txt`` has it."""
    names = [name for name in answer.headers if name in HEADERS or name.startswith("access-")]
    lines = [f"{name}: {answer.headers[name]}\n" for name in sorted(names)]
    text = f"{answer.status_code}\n{''.join(lines)}{body_of(answer)}\n"
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def check(name: str, answer: httpx.Response, kept: dict[str, str]) -> None:
    now = told(answer)
    if RECORDS:
        kept[name] = now
    before = kept.get(name, "")
    diff = difflib.unified_diff(before.splitlines(), now.splitlines(), "kept", "now", lineterm="")
    assert now == before, "\n".join([name, *itertools.islice(diff, 60)])


@pytest.mark.parametrize("name", CASES)
def test_an_answer(server: Server, kept: dict[str, str], name: str) -> None:
    case = CASES[name]
    headers = {"content-type": "application/json", **case.headers} if case.body else case.headers
    answer = server.http.request(case.method, case.path, content=case.content, headers=headers)
    check(name, answer, kept)


def test_a_full_queue(server: Server, kept: dict[str, str]) -> None:
    most = server.http.get("/props").json()["total_slots"] + MAX_QUEUE
    body = {"messages": [user("x" * 4000)], "n": most, "max_tokens": 4000, "stream": True}
    with (
        httpx.Client(base_url=server.url, headers=server.http.headers) as client,
        client.stream("POST", CHAT, json=body) as running,
    ):
        assert running.status_code == 200
        check("queue full", server.http.post(CHAT, json=body), kept)


def test_nothing_is_kept_of_requests_that_are_no_more(kept: dict[str, str]) -> None:
    assert set(kept) == {*CASES, "queue full"}
