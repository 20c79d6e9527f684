"""What can be asked for without a generation: the models, the state, a page."""

from dataclasses import replace

from tests.unit.gateway.fakes import CONFIG, READY, ScriptedPool, request


def test_ready_tells_the_state_of_each_worker() -> None:
    response = request(ScriptedPool(status=replace(READY, waiting=3)), "GET", "/ready")
    assert response.status_code == 200
    assert response.json() == {
        "state": "ready",
        "reason": None,
        "waiting": 3,
        "running": 0,
        "slots": 2,
        "workers": [
            {
                "worker_id": i,
                "state": "idle",
                "pid": 100 + i,
                "restarts": 0,
                "reason": None,
                "running": 0,
                "cached_tokens": 0,
                "memory_bytes": None,
            }
            for i in range(2)
        ],
        "zygote": {"pid": None, "is_loaded": False, "prefix_tokens": 0, "restarts": 0},
        "prefix_cache": {"size_bytes": 0, "used_bytes": 0, "entries": 0, "pending": 0},
        "evictions": 0,
    }


def test_the_index_page_names_the_model_and_escapes_it() -> None:
    config = replace(CONFIG, model_id="<b>&")
    page = request(ScriptedPool(), "GET", "/", config, headers={"host": "<i>"})
    assert "&lt;b&gt;&amp;" in page.text and "<b>" not in page.text and "<i>" not in page.text
    assert "/docs" in page.text and "curl" in page.text
    for path in ("/", "/health"):
        assert request(ScriptedPool(), "HEAD", path).status_code == 200


def test_a_model_is_found_by_its_name_with_its_slash() -> None:
    (entry,) = request(ScriptedPool(), "GET", "/v1/models").json()["data"]
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        assert request(ScriptedPool(), "GET", path).json() == entry
