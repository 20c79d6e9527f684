"""Tests of what ``/metrics`` and ``/ready`` say of a pool."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from gateway.pool.base import TemplateStatus, Totals, WorkerStatus
from tests.unit.gateway.fakes import CONFIG, READY, ScriptedPool, loading, request

STATUS = replace(
    READY,
    workers=(
        WorkerStatus(0, "running", 10, 1, cached_tokens=7),
        WorkerStatus(1, "idle", 11, 2, cached_tokens=30, generation=2),
        WorkerStatus(2, "idle", 12, 0, generation=2),
        WorkerStatus(3, "starting", None, 0),
    ),
    waiting=3,
    slots=2,
    template=TemplateStatus(generation=2, prefix_tokens=30, learned=1),
    totals=Totals(prompt_tokens=100, cached_tokens=60, completion_tokens=40, evictions=5),
)
EXPECTED = {
    'ggml_workers{"state": "starting"}': 1,
    'ggml_workers{"state": "idle"}': 2,
    'ggml_workers{"state": "running"}': 1,
    'ggml_workers{"state": "failed"}': 0,
    "ggml_requests_running": 1,
    "ggml_requests_waiting": 3,
    "ggml_cached_conversation_tokens": 37,
    "ggml_template_generation": 2,
    "ggml_template_prefix_tokens": 30,
    "ggml_memory_bound_bytes": 123,
    "ggml_prompt_tokens_total": 100,
    "ggml_cached_tokens_total": 60,
    "ggml_generation_tokens_total": 40,
    "ggml_cache_evictions_total": 5,
    "ggml_prefixes_learned_total": 1,
    "ggml_worker_restarts_total": 3,
}


def samples(pool: ScriptedPool) -> dict[str, float]:
    response = request(pool, "GET", "/metrics", config=replace(CONFIG, most_bytes=123))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        sample.name + (str(sample.labels).replace("'", '"') if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_are_the_status_in_numbers() -> None:
    found = samples(ScriptedPool(status=STATUS))
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    ours = {name for name in found if not name.startswith("ggml_gateway_process_")}
    assert ours == set(EXPECTED)
    assert found["ggml_gateway_process_cpu_seconds_total"] > 0


def test_there_are_metrics_before_there_is_a_model() -> None:
    assert samples(ScriptedPool(status=loading()))['ggml_workers{"state": "starting"}'] == 2


def test_ready_says_what_is_cached_where() -> None:
    content = request(ScriptedPool(status=STATUS), "GET", "/ready").json()
    assert content["template"] == {"generation": 2, "prefix_tokens": 30, "learned": 1}
    assert content["evictions"] == 5
    assert content["workers"][1] == {
        "worker_id": 1,
        "state": "idle",
        "pid": 11,
        "restarts": 2,
        "reason": None,
        "cached_tokens": 30,
        "generation": 2,
    }


def test_no_more_can_start_than_may_run() -> None:
    assert STATUS.idle == 1
    assert replace(STATUS, slots=1).idle == 0
    assert replace(STATUS, slots=None).idle == 2
