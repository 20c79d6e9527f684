"""What a Prometheus server reads at ``/metrics``: the tables say what there is.

Histograms are filled from the `RequestRecord` of a request that has ended; gauges and counters
are read from the status of the pools. No worker is ever asked.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    core,
    disable_created_metrics,
    generate_latest,
    process_collector,
)
from prometheus_client.registry import Collector

from gateway.observe.record import GenerationRecord, RequestRecord
from gateway.pool.base import PoolStatus, WorkerPool
from gateway.pool.deaths import Cause
from shared.errors import ErrorCode
from shared.times import TEXT_GAP_BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0,
    100.0, 250.0, 500.0, 1000.0, 3600.0,
)  # fmt: skip
_LAG_SECONDS = tuple(bound for bound in _SECONDS if bound <= 2.5)
_TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
_STATES = ("starting", "idle", "running", "failed")

# They would double the number of series, and no PromQL function needs them.
disable_created_metrics()  # type: ignore[no-untyped-call]

Labels: TypeAlias = tuple[str, ...]
Values: TypeAlias = float | Mapping[Labels, float]
"""The value of a metric, or of each of its series by the values of its labels."""


class Present(NamedTuple):
    """What gauges are read from."""

    version: str
    model_id: str
    #: The most memory that all workers together take.
    most_bytes: int
    #: Of the pools that are not retired; the last one serves.
    pools: list[PoolStatus]

    @property
    def serving(self) -> PoolStatus:
        return self.pools[-1]


# Each table has the name (with its labels), the help, and how the value is read.
# Histograms of requests that asked for generations; None is not counted.
_OF_REQUESTS: tuple[tuple[str, str, Callable[[RequestRecord], float | None]], ...] = (
    ("time_to_first_token_seconds",
     "From the headers of a request to the first text that was sent; to the first token of an"
     " answer that is not streamed.", lambda record: record.ttft_s),
    ("e2e_request_latency_seconds",
     "From the headers of a request to the end of its answer, if that is complete.",
     lambda record: None if record.error_code or record.is_cut_off else record.total_s),
)  # fmt: skip
# Histograms of their generations whose prompts were evaluated.
_OF_GENERATIONS: tuple[tuple[str, str, Callable[[GenerationRecord], float | None]], ...] = (
    ("request_prefill_time_seconds",
     "Time a worker took to evaluate what it had not cached of a prompt.",
     lambda generation: generation.prefill_ms / 1000),
    ("request_decode_time_seconds", "Time a worker took for all tokens after the first.",
     lambda generation: generation.decode_ms / 1000 or None),  # 0 if cut short
    ("request_prompt_tokens", "Tokens in the prompt of a generation.",
     lambda generation: generation.prompt_tokens),
    ("request_generation_tokens", "Tokens generated, by one generation.",
     lambda generation: generation.completion_tokens),
)  # fmt: skip
_GAUGES: tuple[tuple[str, str, Callable[[Present], Values]], ...] = (
    ("build_info{version,model,family}",
     "This program and the model that it serves; the value is 1.",
     lambda now: {(now.version, now.model_id, getattr(now.serving.model, "family", "")): 1}),
    ("workers{state}", "Worker processes, those kept for their caches included.",
     lambda now: {(state,): sum(state == worker.state for worker in now.serving.workers)
                  for state in _STATES}),
    ("requests_running", "Generations that run.",
     lambda now: sum(pool.running for pool in now.pools)),
    ("requests_waiting", "Generations in the backlog.",
     lambda now: sum(pool.waiting for pool in now.pools)),
    ("requests_waiting_limit", "The most that may wait.", lambda now: now.serving.max_queue),
    ("cached_conversation_tokens", "Tokens in the KV caches of all workers.",
     lambda now: sum(worker.cached_tokens for worker in now.serving.workers)),
    ("prefix_cache_bytes", "Memory that the prefix cache has in use.",
     lambda now: now.serving.prefix_cache.used_bytes),
    ("prefix_cache_limit_bytes", "The most that it may have, which is PREFIX_CACHE.",
     lambda now: now.serving.prefix_cache.size_bytes),
    ("prefix_cache_entries", "States of KV caches in it.",
     lambda now: now.serving.prefix_cache.entries),
    ("zygote_prefix_tokens", "Tokens a new worker has cached.",
     lambda now: now.serving.zygote.prefix_tokens),
    ("memory_bound_bytes", "The most memory that all workers take.", lambda now: now.most_bytes),
    ("worker_state{worker,state}", "1 for the state it is in, else 0.",
     lambda now: {(str(worker.worker_id), state): state == worker.state
                  for worker in now.serving.workers for state in _STATES}),
    ("worker_memory_bytes{worker}", "Its private memory when last measured.",
     lambda now: {(str(worker.worker_id),): worker.memory_bytes
                  for worker in now.serving.workers if worker.memory_bytes is not None}),
)  # fmt: skip
# The sum over all pools there have been, and over what `Metrics` counts: for that, the value here
# is where it begins. A series that began with its first event would show no increase.
_COUNTERS: tuple[tuple[str, str, Callable[[PoolStatus], Values]], ...] = (
    ("prompt_tokens", "Tokens in prompts.", lambda pool: pool.totals.prompt_tokens),
    ("cached_tokens", "Tokens in prompts that were in a KV cache.",
     lambda pool: pool.totals.cached_tokens),
    ("restored_tokens", "Tokens in prompts that came from the prefix cache.",
     lambda pool: pool.totals.restored_tokens),
    ("generation_tokens", "Tokens generated.", lambda pool: pool.totals.completion_tokens),
    ("cache_evictions", "Conversations that lost their KV cache.",
     lambda pool: pool.totals.evictions),
    ("requests_quarantined", "Requests refused from then on, since they kill.",
     lambda pool: pool.totals.quarantined),
    ("worker_deaths{cause}", "Worker processes that died, by the cause.",
     lambda pool: {(cause.value,): pool.totals.deaths.get(cause.value, 0) for cause in Cause}),
    ("worker_restarts{worker}", "Processes of this worker that died.",
     lambda pool: {(str(worker.worker_id),): worker.restarts for worker in pool.workers}),
    ("zygote_restarts", "Zygotes, which workers are forked from, that died.",
     lambda pool: pool.zygote.restarts),
    ("worker_requests{worker}", "Generations that it ran and that have ended.",
     lambda pool: {(str(worker.worker_id),): 0 for worker in pool.workers}),
    ("worker_generation_tokens{worker}", "Tokens in those generations.",
     lambda pool: {(str(worker.worker_id),): 0 for worker in pool.workers}),
    ("requests{endpoint,status,finish_reason}",
     "HTTP requests whose answer has ended. finish_reason is that of all choices, mixed, cancelled,"
     " or the code of the error, also of one in mid-stream; status 499: the client went away.",
     lambda pool: {}),
    ("requests_rejected{reason}",
     "HTTP requests that were answered with an error status, and connections that ended with one"
     " before they became requests, by the code of the error.",
     lambda pool: {(code.value,): 0 for code in ErrorCode}),
)  # fmt: skip


class Metrics(Collector):
    """The metrics of one application. Counters outlive its pools."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        process_collector.ProcessCollector(namespace="ggml_gateway", registry=self._registry)
        self._version, self._model_id, self._most_bytes = version, "", 0
        self._pools: list[WorkerPool] = []
        # Of pools that are retired, and of requests that have ended.
        self._counted: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
        self._gap_counts, self._gaps_s = [0] * (len(TEXT_GAP_BOUNDS_S) + 1), 0.0
        self._histograms = {
            name: self._histogram(name, text, _TOKENS if name.endswith("_tokens") else _SECONDS)
            for name, text, _ in (*_OF_REQUESTS, *_OF_GENERATIONS)
        }
        self._queue_time = self._histogram(
            "request_queue_time_seconds", "Time that a generation waited for a worker.", _SECONDS
        )
        self._lag = self._histogram(
            "gateway_event_loop_lag_seconds",
            "How late the event loop does what is due, looked at once a second.",
            _LAG_SECONDS,
        )

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"ggml_{name}", text, buckets=bounds, registry=self._registry)

    def measure(self, pool: WorkerPool, model_id: str, most_bytes: int) -> None:
        """Take a pool for the one that serves; earlier pools count on until `retire`."""
        self._pools.append(pool)
        self._model_id, self._most_bytes = model_id, most_bytes

    def retire(self, pool: WorkerPool) -> None:
        """Read the counters of a closed pool for the last time."""
        self._pools.remove(pool)
        _add(self._counted, pool.status())

    def observe(self, record: RequestRecord) -> None:
        """Count a request whose answer has ended."""
        self._counted["requests"][record.endpoint, str(record.status), record.outcome] += 1
        if record.error_code and record.status >= 400:
            self._counted["requests_rejected"][record.error_code,] += 1
        if not record.generations:
            return
        for name, _, value_of in _OF_REQUESTS:
            self._fill(name, value_of(record))
        for generation in record.generations:
            if generation.queue_s is not None:
                self._queue_time.observe(generation.queue_s)
            if generation.first_s is not None:
                self._count(generation)

    def count_refused(self, code: ErrorCode) -> None:
        """Count a connection that ended with an error before it became a request."""
        self._counted["requests_rejected"][code.value,] += 1

    def note_lag_s(self, lag_s: float) -> None:
        self._lag.observe(lag_s)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def describe(self) -> list[core.Metric]:
        return []  # else the registry would collect at once to learn the names

    def collect(self) -> Iterator[core.Metric]:
        statuses = [pool.status() for pool in self._pools]
        counted = defaultdict(Counter, {key: each.copy() for key, each in self._counted.items()})
        for status in statuses:
            _add(counted, status)
        for name, text, _ in _COUNTERS:
            yield _family(core.CounterMetricFamily, name, text, counted[name.partition("{")[0]])
        bounds = [*map(str, TEXT_GAP_BOUNDS_S), "+Inf"]
        yield core.HistogramMetricFamily(
            "ggml_inter_token_latency_seconds",
            "From one piece of text of a generation to the next as they reach the gateway, mostly"
            " a token each; counted when the request has ended.",
            buckets=list(zip(bounds, accumulate(self._gap_counts), strict=True)),
            sum_value=self._gaps_s,
        )
        if statuses:
            now = Present(self._version, self._model_id, self._most_bytes, statuses)
            for name, text, values_of in _GAUGES:
                yield _family(core.GaugeMetricFamily, name, text, values_of(now))

    def _fill(self, name: str, value: float | None) -> None:
        if value is not None:
            self._histograms[name].observe(value)

    def _count(self, generation: GenerationRecord) -> None:
        for name, _, value_in in _OF_GENERATIONS:
            self._fill(name, value_in(generation))
        for place, count in enumerate(generation.gap_counts):
            self._gap_counts[place] += count
        self._gaps_s += generation.gaps_s
        if generation.worker_id is not None:
            worker = (str(generation.worker_id),)
            self._counted["worker_requests"][worker] += 1
            self._counted["worker_generation_tokens"][worker] += generation.completion_tokens


def _by_labels(values: Values) -> Mapping[Labels, float]:
    return values if isinstance(values, Mapping) else {(): values}


def _add(counted: defaultdict[str, Counter[Labels]], status: PoolStatus) -> None:
    for name, _, values_of in _COUNTERS:
        each = counted[name.partition("{")[0]]
        for labels, value in _by_labels(values_of(status)).items():
            each[labels] += int(value)


def _family(
    kind: type[core.CounterMetricFamily | core.GaugeMetricFamily],
    name: str,
    text: str,
    values: Values,
) -> core.Metric:
    name, _, labels = name.rstrip("}").partition("{")
    family = kind(f"ggml_{name}", text, labels=labels.split(",") if labels else ())
    for each, value in _by_labels(values).items():
        family.add_metric(each, value)
    return family
