"""Tests of ``/metrics``: what it says of requests and of pools."""

from dataclasses import replace

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.metrics import Metrics
from gateway.observe.record import CLIENT_LEFT, GenerationRecord, RequestRecord
from gateway.pool.base import (
    PoolStatus,
    PrefixCacheStatus,
    Totals,
    WorkerStatus,
    ZygoteStatus,
)
from shared.errors import ErrorCode
from shared.times import TEXT_GAP_BOUNDS_S
from tests.unit.gateway.fakes import READY, ScriptedPool, loading

STATUS = replace(
    READY,
    workers=(
        WorkerStatus(0, "running", 10, 1, running=1, cached_tokens=7, memory_bytes=1000),
        WorkerStatus(1, "idle", 11, 2, cached_tokens=30),
        WorkerStatus(2, "idle", 12, 0),
        WorkerStatus(3, "starting", None, 0),
    ),
    waiting=3,
    max_running=2,
    zygote=ZygoteStatus(pid=99, is_loaded=True, prefix_tokens=30, restarts=2),
    prefix_cache=PrefixCacheStatus(size_bytes=5000, used_bytes=3000, entries=3, pending=1),
    totals=Totals(
        prompt_tokens=100, cached_tokens=60, completion_tokens=40, restored_tokens=20, evictions=5,
        deaths={"killed": 2, "crashed": 1}, quarantined=1,
    ),
)  # fmt: skip
GENERATION = GenerationRecord(
    queue_s=0.2, first_s=10.7, worker_id=1, runs=1,
    prompt_tokens=12, cached_tokens=8, completion_tokens=40, prefill_ms=300, decode_ms=1300,
    outcome="stop",
)  # fmt: skip
RECORD = RequestRecord(
    request_id="abc", began_s=10.0, endpoint="/v1/completions", generations=[GENERATION],
    status=200, head_s=11.9, ended_s=12.0,
)  # fmt: skip


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
    "ggml_restored_tokens_total": 20,
    "ggml_prefix_cache_bytes": 3000,
    "ggml_prefix_cache_limit_bytes": 5000,
    "ggml_prefix_cache_entries": 3,
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


def families(metrics: Metrics) -> list[Metric]:
    return list(text_string_to_metric_families(metrics.text().decode()))


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + labelled(sample.labels): sample.value
        for family in families(metrics)
        for sample in family.samples
    }


def labelled(labels: dict[str, str]) -> str:
    shown = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{{{shown}}}" if labels else ""


def measuring(*statuses: PoolStatus) -> tuple[Metrics, list[ScriptedPool]]:
    metrics = Metrics("0")
    pools = [ScriptedPool(status=status) for status in statuses]
    for pool in pools:
        metrics.measure(pool, "org/model", 123)
    return metrics, pools


def observed(*records: RequestRecord) -> dict[str, float]:
    metrics, _ = measuring(STATUS)
    for record in records:
        metrics.observe(record)
    return samples(metrics)


def rejected(found: dict[str, float]) -> float:
    values = [value for name, value in found.items() if name.startswith("ggml_requests_rejected")]
    assert len(values) == len(ErrorCode)
    return sum(values)


def test_a_request_is_counted_when_it_has_ended() -> None:
    other = replace(GENERATION, worker_id=2, first_s=10.5, outcome="length")
    found = observed(RECORD, replace(RECORD, generations=[GENERATION, other]))
    for reason in ("stop", "mixed"):
        labels = f"{{endpoint=/v1/completions,finish_reason={reason},status=200}}"
        assert found[f"ggml_requests_total{labels}"] == 1
    for name, count, total in (
        ("time_to_first_token_seconds", 2, 0.7 + 0.5),
        ("e2e_request_latency_seconds", 2, 2 * 2.0),
        ("request_queue_time_seconds", 3, 3 * 0.2),
        ("request_prefill_time_seconds", 3, 3 * 0.3),
        ("request_decode_time_seconds", 3, 3 * 1.3),
        ("request_prompt_tokens", 3, 3 * 12),
        ("request_generation_tokens", 3, 3 * 40),
    ):
        assert found[f"ggml_{name}_count"] == count
        assert abs(found[f"ggml_{name}_sum"] - total) < 1e-9
    assert [found[f"ggml_worker_requests_total{{worker={each}}}"] for each in range(3)] == [0, 2, 1]
    assert found["ggml_worker_generation_tokens_total{worker=1}"] == 80
    assert rejected(found) == 0
    assert not [name for name in found if name.endswith("_created")]
    # The first text of a stream is there when it begins.
    stream = replace(RECORD, is_stream=True)
    assert abs(observed(stream)["ggml_time_to_first_token_seconds_sum"] - 1.9) < 1e-9


def test_what_is_refused_has_no_times() -> None:
    refused = replace(RECORD, status=429, error_code="queue_full", generations=[GenerationRecord()])
    unknown = replace(RECORD, status=404, error_code="unknown_url", endpoint="other")
    found = observed(refused, replace(unknown, generations=[]))
    assert found["ggml_requests_rejected_total{reason=queue_full}"] == 1
    assert found["ggml_requests_rejected_total{reason=unknown_url}"] == 1
    assert rejected(found) == 2
    labels = "{endpoint=other,finish_reason=unknown_url,status=404}"
    assert found[f"ggml_requests_total{labels}"] == 1
    counts = {name: value for name, value in found.items() if name.endswith("_count")}
    assert counts and not any(counts.values())


def test_what_is_cut_short_has_no_latency_and_is_not_rejected() -> None:
    cut = replace(GENERATION, decode_ms=0.0, outcome="cancelled")
    left = replace(RECORD, status=CLIENT_LEFT, generations=[cut], is_stream=True)
    broken = replace(RECORD, error_code="worker_crashed", generations=[cut], is_stream=True)
    found = observed(left, broken)
    for reason, status in (("cancelled", CLIENT_LEFT), ("worker_crashed", 200)):
        labels = f"{{endpoint=/v1/completions,finish_reason={reason},status={status}}}"
        assert found[f"ggml_requests_total{labels}"] == 1
    assert found["ggml_e2e_request_latency_seconds_count"] == 0
    assert found["ggml_request_decode_time_seconds_count"] == 0
    assert found["ggml_time_to_first_token_seconds_count"] == 2
    assert rejected(found) == 0


def test_gaps_between_texts_are_a_histogram() -> None:
    gap_counts = [0] * (len(TEXT_GAP_BOUNDS_S) + 1)
    gap_counts[0], gap_counts[3], gap_counts[-1] = 5, 2, 1
    gaps = GenerationRecord(first_s=1.0, gaps_s=20.5, gap_counts=gap_counts)
    record = replace(RECORD, generations=[gaps, gaps])
    found = observed(record)
    name = "ggml_inter_token_latency_seconds"
    bounds = [*map(str, TEXT_GAP_BOUNDS_S), "+Inf"]
    counts = [found[f"{name}_bucket{{le={bound}}}"] for bound in bounds]
    assert counts == [10] * 3 + [14] * (len(bounds) - 4) + [16]
    assert (found[f"{name}_count"], found[f"{name}_sum"]) == (16, 41)


def test_metrics_are_the_status_in_numbers() -> None:
    found = samples(measuring(STATUS)[0])
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    assert found["ggml_gateway_process_cpu_seconds_total"] > 0
    assert len([name for name in found if name.startswith("ggml_worker_state{")]) == 16


def test_there_are_metrics_before_there_is_a_model() -> None:
    found = samples(measuring(loading())[0])
    assert found["ggml_workers{state=starting}"] == 2
    assert found["ggml_build_info{family=,model=org/model,version=0}"] == 1
