"""What can be asked for without a generation: the models, the state, a page."""

from dataclasses import replace

from tests.unit.gateway.fakes import CONFIG, READY, ScriptedPool, error, request


def test_ready_tells_the_state_of_each_worker() -> None:
    response = request(ScriptedPool(status=replace(READY, waiting=3)), "GET", "/ready")
    assert response.status_code == 200
    assert response.json() == {
        "state": "ready",
        "reason": None,
        "waiting": 3,
        "running": 0,
        "slots": None,
        "workers": [
            {
                "worker_id": i,
                "state": "idle",
                "pid": 100 + i,
                "restarts": 0,
                "reason": None,
                "cached_tokens": 0,
                "generation": 0,
                "memory_bytes": None,
            }
            for i in range(2)
        ],
        "template": {"generation": 0, "prefix_tokens": 0, "learned": 0},
        "evictions": 0,
    }


def test_models_are_listed_and_found_with_their_slash() -> None:
    pool = ScriptedPool()
    listed = request(pool, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        assert request(pool, "GET", path).json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == 100
    assert listed["data"][0]["chat_template"] == "plain"
    unknown = request(pool, "GET", "/v1/models/gpt-4")
    assert error(unknown) == (404, "model_not_found", "model")
    assert "org/model" in unknown.text


def test_the_index_page_names_the_model_and_escapes_it() -> None:
    config = replace(CONFIG, model_id="<b>&")
    page = request(ScriptedPool(), "GET", "/", config, headers={"host": "<i>"})
    assert "&lt;b&gt;&amp;" in page.text and "<b>" not in page.text and "<i>" not in page.text
    assert "/docs" in page.text and "curl" in page.text
    for path in ("/", "/health"):
        assert request(ScriptedPool(), "HEAD", path).status_code == 200
