"""OpenTelemetry spans (``OTEL=1``), made of the records of requests when these have ended."""

import sys
import threading
import time

from gateway.observe.record import RequestRecord
from shared.errors import UsageError

_LAST_EXPORT_S = 2.0
_OPERATIONS = {
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
}
"""By the route; all others are chats."""


class Spans:
    """Exports a span for each request that asks for generations.

    The SDK reads OpenTelemetry's own environment variables, such as
    ``OTEL_EXPORTER_OTLP_ENDPOINT`` and ``OTEL_TRACES_SAMPLER``.
    """

    def __init__(self) -> None:
        """Raise `UsageError` if the packages are not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise UsageError(
                f"OTEL=1 takes packages that are not installed ({error}): {sys.executable} -m pip"
                " install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ) from error
        resource = Resource({"service.name": "ggml-fastapi"}).merge(OTELResourceDetector().detect())
        # Not the global provider: with that the libraries below would add spans of their own.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("ggml-fastapi")
        self._propagator = TraceContextTextMapPropagator()

    def observe(self, record: RequestRecord) -> None:
        """Export the span of a request whose answer has just ended."""
        from opentelemetry.trace import SpanKind, StatusCode

        if not record.generations:
            return
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in record.headers
            if name in (b"traceparent", b"tracestate")
        }
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{record.method} {record.endpoint}",
            self._propagator.extract(headers),
            SpanKind.SERVER,
            _attributes(record),
            start_time=end_ns - int(record.total_s * 1e9),
        )
        if record.error_code:
            span.set_attribute("error.type", record.error_code)
            if record.status < 400 or record.status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end(end_ns)

    def close(self) -> None:
        """Export what is left; blocks for two seconds at most."""
        # The SDK waits much longer for a collector that does not answer.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_LAST_EXPORT_S)


def _attributes(record: RequestRecord) -> dict[str, str | int | float | list[str] | list[int]]:
    runs = record.generations
    return {
        "http.request.method": record.method,
        "http.route": record.endpoint,
        "http.response.status_code": record.status,
        "gen_ai.operation.name": _OPERATIONS.get(record.endpoint, "chat"),
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.response.finish_reasons": [each.outcome for each in runs],
        "ggml.request_id": record.request_id,
        "ggml.cached_tokens": record.cached_tokens,
        "ggml.queue_ms": (record.queue_s or 0.0) * 1000,
        "ggml.time_to_first_token_ms": (record.ttft_s or 0.0) * 1000,
        "ggml.workers": [each.worker_id for each in runs if each.worker_id is not None],
    }
