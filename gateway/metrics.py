"""What a Prometheus server reads at ``/metrics``.

Some is counted when a request has ended, from its `RequestRecord`; the rest is made of the pools'
status when it is asked for. No worker is ever asked.
"""

import asyncio
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway.metrics_pool import PoolMetrics
from gateway.pool.base import GenerationRecord, WorkerPool
from gateway.request_record import CLIENT_LEFT, RequestRecord, waited_s
from shared.errors import ErrorCode

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that `Metrics.text` gives."""

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0,
    100.0, 250.0, 500.0, 1000.0, 3600.0,
)  # fmt: skip
_TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LAG_EVERY_S = 1.0

# They would be as many series again, of no use to the functions that one asks Prometheus with.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one application; they outlive its pools."""

    def __init__(self, version: str) -> None:
        """Begin without a pool; ``version`` is that of this program."""
        registry = self._registry = CollectorRegistry()
        self._pools = PoolMetrics(version)
        registry.register(self._pools)
        ProcessCollector(namespace="ggml_gateway", registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"ggml_{name}", text, buckets=bounds, registry=registry)

        self._requests = Counter(
            "ggml_requests_total",
            "HTTP requests whose answer has ended. finish_reason is that of all choices, mixed,"
            " cancelled, or the code of the error, also of one in mid-stream; status 499: the"
            " client went away.",
            ["endpoint", "status", "finish_reason"],
            registry=registry,
        )
        self._rejected = Counter(
            "ggml_requests_rejected_total",
            "HTTP requests that were answered with an error status, and connections that ended with"
            " one before they became requests, by the code of the error.",
            ["reason"],
            registry=registry,
        )
        for code in ErrorCode:  # else the first of each would not be seen as an increase
            self._rejected.labels(code.value)
        self._ttft = histogram(
            "time_to_first_token_seconds",
            "From the headers of a request to the first text that was sent; to the first token"
            " of an answer that is not streamed.",
        )
        self._latency = histogram(
            "e2e_request_latency_seconds",
            "From the headers of a request to the end of its answer, if that is complete.",
        )
        self._queue = histogram(
            "request_queue_time_seconds", "Time that a generation waited for a worker."
        )
        self._prefill = histogram(
            "request_prefill_time_seconds",
            "Time a worker took to evaluate what it had not cached of a prompt.",
        )
        self._decode = histogram(
            "request_decode_time_seconds", "Time a worker took for all tokens after the first."
        )
        self._prompt_tokens = histogram(
            "request_prompt_tokens", "Tokens in the prompt of a generation.", _TOKENS
        )
        self._generation_tokens = histogram(
            "request_generation_tokens", "Tokens generated, by one generation.", _TOKENS
        )
        self._lag = histogram(
            "gateway_event_loop_lag_seconds",
            "How late the event loop does what is due, looked at once a second.",
            _LAG_SECONDS,
        )

    def measure(self, pool: WorkerPool, model_id: str, most_bytes: int) -> None:
        """Take a pool for the present one; the one before counts on until `retire`.

        Args:
            pool: what serves from now on.
            model_id: the model's name, as clients say it.
            most_bytes: the most memory that its workers take together.
        """
        self._pools.measure(pool, model_id, most_bytes)

    def retire(self, pool: WorkerPool) -> None:
        """Look at a pool for the last time, since it is closed; what it has counted is kept."""
        self._pools.retire(pool)

    def observe(self, record: RequestRecord) -> None:
        """Count a request whose answer has ended."""
        self._requests.labels(record.endpoint, str(record.status), record.outcome).inc()
        if record.error_code and record.status >= 400:
            self._rejected.labels(record.error_code).inc()
        if not record.generations:
            return
        if (ttft_s := record.ttft_s) is not None:
            self._ttft.observe(ttft_s)
        if not record.error_code and record.status != CLIENT_LEFT:
            self._latency.observe(record.total_s)
        for generation in record.generations:
            self._observe_generation(generation)

    def count_refused(self, code: ErrorCode) -> None:
        """Count a connection that was ended with an error, for which there is no request."""
        self._rejected.labels(code.value).inc()

    def _observe_generation(self, generation: GenerationRecord) -> None:
        if (queue_s := waited_s(generation)) is not None:
            self._queue.observe(queue_s)
        if generation.first_s is None:
            return
        self._prefill.observe(generation.prefill_ms / 1000)
        self._prompt_tokens.observe(generation.prompt_tokens)
        self._generation_tokens.observe(generation.completion_tokens)
        if generation.decode_ms:  # a worker has said that it has ended
            self._decode.observe(generation.decode_ms / 1000)
        self._pools.count(generation)

    async def watch_event_loop(self) -> None:
        """Measure how late the event loop is, until this is cancelled."""
        while True:
            due_s = time.monotonic() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(0.0, time.monotonic() - due_s))

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
