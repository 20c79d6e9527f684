"""Tests of the spans that are exported of requests, with a collector of our own."""

import gzip
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any

import pytest

from gateway.observe.tracing import Spans
from shared.errors import UsageError
from tests.http_answers import Reply, Request, answering
from tests.serving import DEADLINE_S, served

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, "Queue[Any]"]]:
    """A collector of spans: its address, and the requests that it gets."""
    exported: Queue[Any] = Queue()

    def answer(request: Request) -> Reply:
        is_packed = request.headers["content-encoding"] == "gzip"
        body = gzip.decompress(request.body) if is_packed else request.body
        exported.put(trace_service.ExportTraceServiceRequest.FromString(body))
        return Reply(headers={"Connection": "close"})

    with answering(answer) as address:
        yield address, exported


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: value_of(each.value) for each in span.attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


def spans_of(exported: Any) -> Any:
    """The spans of one export, which are all of our service."""
    (resource_spans,) = exported.resource_spans
    assert attributes(resource_spans.resource)["service.name"] == "mine"
    return resource_spans.scope_spans[0].spans


def test_a_request_becomes_a_span_of_its_clients_trace() -> None:
    more = {"OTEL": "1", "OTEL_SERVICE_NAME": "mine", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with ExitStack() as collecting:
        address, exported = collecting.enter_context(collector())
        with served(
            MODEL_TYPE="echo", WORKERS="2", OTEL_EXPORTER_OTLP_ENDPOINT=address, **more
        ) as server:
            server.http.get("/v1/models")
            server.http.post(
                "/v1/completions",
                json={"prompt": ["one", "three"], "max_tokens": 4, "stream": True},
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine-1"},
            )
            (first,) = spans_of(exported.get(timeout=DEADLINE_S))
            server.http.post("/v1/completions", json={"prompt": "x" * 10, "max_tokens": 99999})
            (second,) = spans_of(exported.get(timeout=DEADLINE_S))
            # A collector that is gone disturbs nobody.
            collecting.close()
            assert server.http.post("/v1/completions", json={"prompt": "one"}).json() == "one"
            server.stop()
    assert exported.empty()
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert first.name == "POST /v1/completions"
    assert 0 < first.end_time_unix_nano - first.start_time_unix_nano < DEADLINE_S * 1e9
    found = attributes(first)
    assert found.pop("ggml.queue_ms") >= 0 and found.pop("ggml.time_to_first_token_ms") > 0
    assert sorted(found.pop("ggml.workers")) == [0, 1]
    assert sorted(found.pop("gen_ai.response.finish_reasons")) == ["length", "stop"]
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.usage.input_tokens": 8,
        "gen_ai.usage.output_tokens": 7,
        "ggml.request_id": "mine-1",
        "ggml.cached_tokens": 0,
    }
    assert not first.status.code
    assert not second.parent_span_id
    assert attributes(second)["error.type"] == "context_length_exceeded"
    assert attributes(second)["http.response.status_code"] == 400


def test_without_the_packages_the_server_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=r"python\S* -m pip install opentelemetry-sdk"):
        Spans()
