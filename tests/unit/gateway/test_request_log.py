"""Tests of what is logged of a request, and of its id."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from gateway.observe.log import RequestLog, log
from gateway.observe.record import CLIENT_LEFT, GenerationRecord, RequestRecord, Transcript
from shared.logging import request_id_var
from tests.unit.gateway.fakes import CONFIG, ScriptedPool, failed, post, request

GENERATION = GenerationRecord(
    queue_s=0.25, first_s=10.5, worker_id=3, runs=1,
    prompt_tokens=12, cached_tokens=8, completion_tokens=40, prefill_ms=200, decode_ms=500,
    outcome="stop",
)  # fmt: skip
RECORD = RequestRecord(
    request_id="abc", began_s=10.0, method="POST", path="/v1/completions",
    endpoint="/v1/completions", generations=[GENERATION], status=200, head_s=10.9, ended_s=11.0,
)  # fmt: skip


def logged(caplog: pytest.LogCaptureFixture, record: RequestRecord) -> tuple[str, dict[str, Any]]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log(record)
    (entry,) = caplog.records
    return entry.getMessage(), entry.__dict__["fields"]


def test_several_generations_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    other = replace(GENERATION, worker_id=1, runs=2, queue_s=0.5, outcome="length")
    record = replace(RECORD, generations=[GENERATION, other], is_stream=True, key_name='a "b"\n')
    line, fields = logged(caplog, record)
    assert line == (
        'POST /v1/completions 200 1000.0 ms abc key="a \\"b\\"\\n" stream=true outcome=mixed'
        " workers=3,1 prompt_tokens=24 cached_tokens=16 completion_tokens=80 queue_ms=500.0"
        " ttft_ms=900.0 runs=3"
    )
    assert fields["workers"] == [3, 1]


def test_what_did_not_come_to_a_generation(caplog: pytest.LogCaptureFixture) -> None:
    record = replace(RECORD, generations=[], status=401, error_code="invalid_api_key")
    assert logged(caplog, record)[0] == (
        "POST /v1/completions 401 1000.0 ms abc error=invalid_api_key"
    )
    refused = replace(
        RECORD, generations=[GenerationRecord()], status=429, error_code="queue_full", head_s=10.1
    )
    assert " stream=false outcome=queue_full workers= " in logged(caplog, refused)[0]
    for is_stream in (True, False):
        assert "ttft_ms" not in logged(caplog, replace(refused, is_stream=is_stream))[1]
    left = replace(RECORD, status=CLIENT_LEFT)
    assert logged(caplog, left)[1]["outcome"] == "cancelled"


def test_what_is_asked_every_few_seconds_is_for_debugging_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for endpoint, code, level in (
        ("/metrics", "", logging.DEBUG),
        ("/ready", "", logging.DEBUG),
        ("/metrics", "invalid_api_key", logging.INFO),
        ("/v1/models", "", logging.INFO),
    ):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            log(replace(RECORD, endpoint=endpoint, error_code=code, generations=[]))
        assert [entry.levelno for entry in caplog.records] == [level]


def test_a_transcript_has_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log(replace(RECORD, transcripts=[Transcript("a\nb", 'c"'), Transcript("d")]))
    _, first, second = caplog.records
    assert first.name == "gateway.prompts"
    assert first.getMessage() == 'abc prompt "a\\nb" completion "c\\""'
    assert second.__dict__["fields"] == {"request_id": "abc", "prompt": "d", "completion": ""}


def test_the_error_is_named_whoever_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    request(ScriptedPool(), "GET", "/nowhere")
    request(ScriptedPool(), "DELETE", "/v1/completions")
    post(ScriptedPool(), "/v1/completions", {"prompt": 1})
    broken = ScriptedPool(lambda request: [failed(request)])
    post(broken, "/v1/completions", {"prompt": "x"})
    confused = ScriptedPool(lambda request: [ValueError("secret")])
    post(confused, "/v1/completions", {"prompt": "x"})
    cut = ScriptedPool(lambda r: [*ScriptedPool().script(r)[:2], failed(r)])
    assert post(cut, "/v1/completions", {"prompt": "x", "stream": True}).status_code == 200
    *entries, last = [entry for entry in caplog.records if entry.name == "gateway.access"]
    assert last.__dict__["fields"]["outcome"] == "worker_crashed"
    assert [entry.__dict__["fields"]["error"] for entry in entries] == [
        "unknown_url", "method_not_allowed", "invalid_value", "worker_crashed", "internal_error",
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("logs", [True, False])
def test_prompts_and_completions_are_logged_on_request_only(
    stream: bool, logs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, log_prompts=logs)
    with caplog.at_level(logging.DEBUG):
        body = {"prompt": ["One", "Two"], "stream": stream}
        post(ScriptedPool(), "/v1/completions", body, config=config)
    lines = [entry.getMessage() for entry in caplog.records if entry.name == "gateway.prompts"]
    texts = ["One", "Two"] if logs else []
    assert [line.partition(" ")[2] for line in lines] == [
        f'prompt "{text}" completion "Hello"' for text in texts
    ]
    assert ("One" in caplog.text or "Hello" in caplog.text) is logs


def test_who_observes_is_given_each_request_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    records: list[RequestRecord] = []
    wrapped = RequestLog(app, ["/known"], [records.append])

    async def send(message: Any) -> None: ...

    for path in ("/known", "/unknown\nINFO"):
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}
        asyncio.run(wrapped(scope, None, send))  # type: ignore[arg-type]
    assert [(each.endpoint, each.path, each.status) for each in records] == [
        ("/known", "/known", 204),
        ("other", "/unknown%0AINFO", 204),
    ]
    assert request_id_var.get() == ""
