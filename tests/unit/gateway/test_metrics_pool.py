"""Tests of what ``/metrics`` and ``/ready`` say of pools."""

from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.metrics import Metrics
from gateway.pool.base import WorkerStatus
from tests.unit.gateway.fakes import ScriptedPool, loading, request
from tests.unit.gateway.test_metrics import RECORD, STATUS, families, measuring, samples

EXPECTED = {
    "ggml_build_info{family=llama,model=org/model,version=0}": 1,
    "ggml_workers{state=starting}": 1,
    "ggml_workers{state=idle}": 2,
    "ggml_workers{state=running}": 1,
    "ggml_workers{state=failed}": 0,
    "ggml_requests_running": 1,
    "ggml_requests_waiting": 3,
    "ggml_requests_waiting_limit": 4,
    "ggml_cached_conversation_tokens": 37,
    "ggml_zygote_restarts_total": 2,
    "ggml_zygote_prefix_tokens": 30,
    "ggml_memory_bound_bytes": 123,
    "ggml_prompt_tokens_total": 100,
    "ggml_cached_tokens_total": 60,
    "ggml_generation_tokens_total": 40,
    "ggml_cache_evictions_total": 5,
    "ggml_requests_quarantined_total": 1,
    "ggml_worker_deaths_total{cause=killed}": 2,
    "ggml_worker_deaths_total{cause=crashed}": 1,
    "ggml_worker_deaths_total{cause=memory}": 0,
    "ggml_worker_memory_bytes{worker=0}": 1000,
    "ggml_worker_state{state=running,worker=0}": 1,
    "ggml_worker_state{state=idle,worker=0}": 0,
    "ggml_worker_state{state=starting,worker=3}": 1,
    "ggml_worker_restarts_total{worker=0}": 1,
    "ggml_worker_restarts_total{worker=1}": 2,
}


def test_metrics_are_the_status_in_numbers() -> None:
    found = samples(measuring(STATUS)[0])
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    assert found["ggml_gateway_process_cpu_seconds_total"] > 0
    assert len([name for name in found if name.startswith("ggml_worker_state{")]) == 16


def test_there_are_metrics_before_there_is_a_model() -> None:
    found = samples(measuring(loading())[0])
    assert found["ggml_workers{state=starting}"] == 2
    assert found["ggml_build_info{family=,model=org/model,version=0}"] == 1


def test_counters_outlive_a_pool() -> None:
    metrics, (old,) = measuring(STATUS)
    metrics.observe(RECORD)
    before = counters(metrics)
    new = ScriptedPool(status=replace(STATUS, waiting=1))
    metrics.measure(new, "org/other", 7)
    both = samples(metrics)
    assert both["ggml_requests_waiting"] == 4
    assert both["ggml_requests_running"] == 2
    assert both["ggml_workers{state=idle}"] == 2
    assert both["ggml_memory_bound_bytes"] == 7
    assert "ggml_build_info{family=llama,model=org/other,version=0}" in both
    old.current = replace(STATUS, totals=replace(STATUS.totals, prompt_tokens=110))
    metrics.retire(old)
    new.current = replace(STATUS, totals=replace(STATUS.totals, prompt_tokens=1))
    old.current = loading()
    after = counters(metrics)
    assert after["ggml_prompt_tokens_total"] == 111
    assert after["ggml_worker_deaths_total{cause=killed}"] == 4
    assert after["ggml_worker_restarts_total{worker=1}"] == 4
    assert after["ggml_worker_requests_total{worker=1}"] == 1
    assert all(after[name] >= value for name, value in before.items())
    assert counters(metrics) == after


def counters(metrics: Metrics) -> dict[str, float]:
    return {
        name: value
        for name, value in samples(metrics).items()
        if name.partition("{")[0].endswith("_total") and "process" not in name
    }


def lint(families: list[Metric]) -> Iterator[str]:
    """What Prometheus' own linter would say."""
    names = [family.name for family in families]
    if len(names) != len(set(names)):
        yield "a family comes twice"
    for family in families:
        series = [(sample.name, tuple(sample.labels.items())) for sample in family.samples]
        if len(series) != len(set(series)):
            yield f"{family.name} has a series twice"
        if not family.documentation:
            yield f"{family.name} has no text"
        if family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info_info")):
            yield f"{family.name} ends as a part of a metric does"
        for sample in family.samples:
            if (family.type == "counter") is not sample.name.endswith("_total"):
                yield f"{sample.name} is a {family.type}"
            if any(unit in sample.name for unit in ("_ms", "milli", "_kb", "_mib", "minutes")):
                yield f"{sample.name} has no base unit"
        if family.type == "unknown":
            yield f"{family.name} has no type"


def test_the_text_is_what_prometheus_wants_of_many_workers() -> None:
    workers = tuple(WorkerStatus(i, "idle", i, i, memory_bytes=i) for i in range(300))
    metrics, _ = measuring(replace(STATUS, workers=workers))
    metrics.observe(RECORD)
    found = families(metrics)
    assert list(lint(found)) == []
    assert len([s for family in found for s in family.samples if "worker" in s.labels]) == 300 * 8


def test_the_linter_sees_what_is_wrong() -> None:
    text = "# TYPE a_ms gauge\na_ms 1\na_ms 1\n# HELP b_total b\n# TYPE b_total gauge\nb_total 1\n"
    assert list(lint(list(text_string_to_metric_families(text)))) == [
        "a_ms has a series twice",
        "a_ms has no text",
        "a_ms has no base unit",
        "a_ms has no base unit",
        "b_total ends as a part of a metric does",
        "b_total is a gauge",
    ]


def test_ready_says_what_is_cached_where() -> None:
    content = request(ScriptedPool(status=STATUS), "GET", "/ready").json()
    assert content["zygote"] == {
        "pid": 99, "is_loaded": True, "prefix_tokens": 30, "restarts": 2,
    }  # fmt: skip
    assert content["evictions"] == 5
    assert content["workers"][1] == {
        "worker_id": 1,
        "state": "idle",
        "pid": 11,
        "restarts": 2,
        "reason": None,
        "running": 0,
        "cached_tokens": 30,
        "memory_bytes": None,
    }
