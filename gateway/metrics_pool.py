"""The metrics that are made of the status of pools when somebody asks for them."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.pool.base import (
    TEXT_GAP_BOUNDS_S,
    GenerationRecord,
    PoolStatus,
    WorkerPool,
)
from gateway.pool.death import Cause

_TOTALS = (
    "prompt_tokens", "cached_tokens", "completion_tokens", "evictions", "quarantined",
)  # fmt: skip
_STATES = ("starting", "idle", "running", "failed")


@dataclass(slots=True)
class _Counted:
    """What pools have counted.

    Attributes:
        totals: by the name in `gateway.pool.base.Totals`.
        deaths: by their cause.
        restarts: by the number of the worker.
    """

    totals: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    restarts: Counter[int] = field(default_factory=Counter)

    def add(self, status: PoolStatus) -> None:
        totals = status.totals
        self.totals.update({name: getattr(totals, name) for name in _TOTALS})
        self.deaths.update(totals.deaths)
        self.restarts.update({each.worker_id: each.restarts for each in status.workers})


class PoolMetrics(Collector):
    """Gauges of the present pool, and counters of all there have been.

    While one pool takes the place of another, what runs and waits is that of both.
    """

    def __init__(self, version: str) -> None:
        """Begin without a pool; ``version`` is that of this program."""
        self._version = version
        self._model_id = ""
        self._most_bytes = 0
        self._pools: list[WorkerPool] = []
        self._retired = _Counted()
        self._tokens_of: Counter[int] = Counter()
        self._generations_of: Counter[int] = Counter()
        self._gap_counts = [0] * (len(TEXT_GAP_BOUNDS_S) + 1)
        self._gaps_s = 0.0

    def measure(self, pool: WorkerPool, model_id: str, most_bytes: int) -> None:
        """See `gateway.metrics.Metrics.measure`."""
        self._pools.append(pool)
        self._model_id, self._most_bytes = model_id, most_bytes

    def retire(self, pool: WorkerPool) -> None:
        """See `gateway.metrics.Metrics.retire`."""
        self._pools.remove(pool)
        self._retired.add(pool.status())

    def count(self, generation: GenerationRecord) -> None:
        """Count a generation that has ended, of which a worker has evaluated the prompt."""
        for place, count in enumerate(generation.gap_counts):
            self._gap_counts[place] += count
        self._gaps_s += generation.gaps_s
        if generation.worker_id is not None:
            self._generations_of[generation.worker_id] += 1
            self._tokens_of[generation.worker_id] += generation.completion_tokens

    def describe(self) -> list[Metric]:
        """Nothing, so that nothing is collected before somebody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All that there is to say now."""
        statuses = [pool.status() for pool in self._pools]
        counted = deepcopy(self._retired)
        for status in statuses:
            counted.add(status)
        yield self._gaps()
        yield from _counters(counted)
        if statuses:
            yield from self._gauges(statuses)
            yield from self._of_each_worker(statuses[-1], counted.restarts)

    def _gaps(self) -> Metric:
        bounds = [*map(str, TEXT_GAP_BOUNDS_S), "+Inf"]
        return HistogramMetricFamily(
            "ggml_inter_token_latency_seconds",
            "From one piece of text of a generation to the next as they reach the gateway, mostly"
            " a token each; counted when the request has ended.",
            buckets=list(zip(bounds, accumulate(self._gap_counts), strict=True)),
            sum_value=self._gaps_s,
        )

    def _gauges(self, statuses: list[PoolStatus]) -> Iterator[Metric]:
        status = statuses[-1]
        build = GaugeMetricFamily(
            "ggml_build_info",
            "This program and the model that it serves; the value is 1.",
            labels=["version", "model", "family"],
        )
        family = "" if status.model is None else status.model.family
        build.add_metric([self._version, self._model_id, family], 1)
        yield build
        states: list[str] = [worker.state for worker in status.workers]
        workers = GaugeMetricFamily(
            "ggml_workers",
            "Worker processes, those kept for their caches included.",
            labels=["state"],
        )
        for state in _STATES:
            workers.add_metric([state], states.count(state))
        yield workers
        for name, text, value in (
            ("requests_running", "Generations that run.", sum(each.running for each in statuses)),
            ("requests_waiting", "Generations in the backlog.",
             sum(each.waiting for each in statuses)),
            ("requests_waiting_limit", "The most that may wait.", status.max_queue),
            ("cached_conversation_tokens", "Tokens in the KV caches of all workers.",
             sum(worker.cached_tokens for worker in status.workers)),
            ("zygote_prefix_tokens", "Tokens a new worker has cached.",
             status.zygote.prefix_tokens),
            ("memory_bound_bytes", "The most memory that all workers take.", self._most_bytes),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"ggml_{name}", text, value)

    def _of_each_worker(self, status: PoolStatus, restarts: Counter[int]) -> Iterator[Metric]:
        labels = ["worker"]
        state = GaugeMetricFamily(
            "ggml_worker_state", "1 for the state it is in, else 0.", labels=["worker", "state"]
        )
        memory = GaugeMetricFamily(
            "ggml_worker_memory_bytes", "Its private memory when last measured.", labels=labels
        )
        died = CounterMetricFamily(
            "ggml_worker_restarts", "Processes of this worker that died.", labels=labels
        )
        ran = CounterMetricFamily(
            "ggml_worker_requests", "Generations that it ran and that have ended.", labels=labels
        )
        tokens = CounterMetricFamily(
            "ggml_worker_generation_tokens", "Tokens in those generations.", labels=labels
        )
        for worker in status.workers:
            label = [str(worker.worker_id)]
            for each in _STATES:
                state.add_metric([*label, each], each == worker.state)
            if worker.memory_bytes is not None:
                memory.add_metric(label, worker.memory_bytes)
            died.add_metric(label, restarts[worker.worker_id])
            ran.add_metric(label, self._generations_of[worker.worker_id])
            tokens.add_metric(label, self._tokens_of[worker.worker_id])
        yield from (state, memory, died, ran, tokens)


def _counters(counted: _Counted) -> Iterator[Metric]:
    for name, key, text in (
        ("prompt_tokens", "prompt_tokens", "Tokens in prompts."),
        ("cached_tokens", "cached_tokens", "Tokens in prompts that were in a KV cache."),
        ("generation_tokens", "completion_tokens", "Tokens generated."),
        ("cache_evictions", "evictions", "Conversations that lost their KV cache."),
        ("requests_quarantined", "quarantined", "Requests refused from then on, since they kill."),
    ):
        yield CounterMetricFamily(f"ggml_{name}", text, counted.totals[key])
    deaths = CounterMetricFamily(
        "ggml_worker_deaths", "Worker processes that died, by the cause.", labels=["cause"]
    )
    for cause in Cause:
        deaths.add_metric([cause.value], counted.deaths[cause.value])
    yield deaths
