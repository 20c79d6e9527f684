"""What a Prometheus server reads at ``/metrics``, made of the pool's status when it asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.pool.base import WorkerPool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that `Metrics.text` gives."""

_STATES = ("starting", "idle", "running", "failed")


class Metrics:
    """The metrics of one application."""

    def __init__(self, pool: WorkerPool, most_bytes: int) -> None:
        """Measure ``pool``, whose workers take at most ``most_bytes`` of memory together."""
        self._registry = CollectorRegistry()
        self._registry.register(_PoolCollector(pool, most_bytes))
        ProcessCollector(namespace="ggml_gateway", registry=self._registry)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    def __init__(self, pool: WorkerPool, most_bytes: int) -> None:
        self._pool = pool
        self._most_bytes = most_bytes

    def describe(self) -> list[Metric]:
        return []  # so that nothing is collected before somebody asks

    def collect(self) -> Iterator[Metric]:
        status = self._pool.status()
        states: list[str] = [worker.state for worker in status.workers]
        workers = GaugeMetricFamily(
            "ggml_workers",
            "Worker processes, those kept for their caches included.",
            labels=["state"],
        )
        for state in _STATES:
            workers.add_metric([state], states.count(state))
        yield workers
        totals, template = status.totals, status.template
        for name, text, value in (
            ("requests_running", "Generations that run.", status.running),
            ("requests_waiting", "Generations in the backlog.", status.waiting),
            ("cached_conversation_tokens", "Tokens in the KV caches of all workers.",
             sum(worker.cached_tokens for worker in status.workers)),
            ("template_generation", "Template that workers are forked from.", template.generation),
            ("template_prefix_tokens", "Tokens a new worker has cached.", template.prefix_tokens),
            ("memory_bound_bytes", "The most memory that all workers take.", self._most_bytes),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"ggml_{name}", text, value)
        for name, text, value in (
            ("prompt_tokens", "Tokens in prompts.", totals.prompt_tokens),
            ("cached_tokens", "Tokens in prompts that were in a KV cache.", totals.cached_tokens),
            ("generation_tokens", "Tokens generated.", totals.completion_tokens),
            ("cache_evictions", "Conversations that lost their KV cache.", totals.evictions),
            ("prefixes_learned", "Prefixes taken from prompts to a template.", template.learned),
            ("worker_restarts", "Worker processes that died.",
             sum(worker.restarts for worker in status.workers)),
        ):  # fmt: skip
            yield CounterMetricFamily(f"ggml_{name}", text, value)
