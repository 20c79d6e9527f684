"""What can be asked for without a generation: the models, the state, a page."""

from dataclasses import replace

from gateway.models import VERSION
from tests.unit.gateway.fakes import CONFIG, READY, ScriptedPool, error, loading, request


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
    assert listed["data"][0]["n_vocab"] == 300
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


def test_props_describe_what_is_served() -> None:
    config = replace(CONFIG, model_file="/home/someone/models/m.gguf")
    response = request(ScriptedPool(), "GET", "/props", config)
    props = response.json()
    settings = props.pop("default_generation_settings")
    template = props.pop("chat_template")
    assert settings["n_ctx"] == 100
    assert settings["params"]["temperature"] == 0.8 and settings["params"]["top_k"] == 40
    assert "messages" in template
    assert props == {
        "total_slots": 2,
        "model_alias": "org/model",
        "model_path": "m.gguf",
        "bos_token": "",
        "eos_token": "</s>",
        "build_info": f"ggml-fastapi {VERSION}",
        "modalities": {"vision": False, "audio": False},
    }
    assert "someone" not in response.text
    unready = request(ScriptedPool(status=loading()), "GET", "/props")
    assert error(unready) == (503, "model_loading", None)
    assert unready.headers["retry-after"]
