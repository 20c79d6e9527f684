"""What a real server lets its operator see: the log, the metrics, the dashboard made of them."""

import json
import os
import re
import signal
from collections import Counter
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving import ROOT, Server, chat, long_chat, served, streamed

DASHBOARD = ROOT / "scripts" / "grafana" / "ggml-fastapi.json"
SECRET = "sesame"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def entries(server: Server) -> list[dict[str, Any]]:
    """The whole log of a server that has ended; each line must be a JSON object."""
    found = [json.loads(line) for line in server.stderr.splitlines()]
    assert all({"ts", "level", "logger", "process", "message"} <= set(entry) for entry in found)
    return found


def ask_in_every_way(server: Server) -> None:
    """Requests that go well, and some that do not, all with the secret in them."""
    http = server.http
    named = {"x-request-id": "named"}
    http.post(COMPLETIONS, json={"prompt": [f"{SECRET} 1", f"{SECRET} 2"]}, headers=named)
    http.post(CHAT, json=chat(SECRET, stream=False, stop=[SECRET]))
    http.post(CHAT, json=chat(SECRET, temperature=9))
    http.post(CHAT, json=chat(SECRET, model=SECRET))
    http.post(CHAT, json=chat(SECRET, max_tokens=10**6))
    http.post(COMPLETIONS, content=f'{{"prompt": "{SECRET}'.encode())
    http.post(COMPLETIONS, content=SECRET.encode(), headers={"content-type": "text/plain"})
    with streamed(server, {"prompt": SECRET}, COMPLETIONS) as stream:
        assert list(stream)[-1] == "[DONE]"
    with streamed(server, long_chat()) as stream:
        next(stream)


def test_the_log_is_json_names_each_request_and_no_prompt() -> None:
    with served(
        MODEL_TYPE="echo", WORKERS="2", LOG_LEVEL="debug", LOG_FORMAT="json", ECHO_DELAY_MS="1",
        ADMIN_KEY="administrator",
    ) as server:  # fmt: skip
        ask_in_every_way(server)
        server.wait_until_idle()
        headers = {"authorization": "Bearer administrator", "x-request-id": "reload-1"}
        assert server.http.post("/admin/reload", headers=headers).status_code == 200
        server.wait_for_output("has been unloaded", "stderr")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_until(lambda status: status["workers"][0]["restarts"] == 1)
        server.stop()
    log = entries(server)
    assert SECRET not in server.stderr + server.stdout
    requests = [entry for entry in log if entry["logger"] == "gateway.access" and "stream" in entry]
    first, *_, left = requests
    assert first["status"] == 200 and first["outcome"] == "stop" and first["request_id"] == "named"
    assert (first["prompt_tokens"], first["completion_tokens"]) == (16, 16)
    assert 0 < first["ttft_ms"] <= first["total_ms"] and first["queue_ms"] >= 0
    assert (left["status"], left["outcome"]) == (499, "cancelled")
    # What a worker logs of a request has the same id, and the worker's.
    begun = [entry for entry in log if entry["logger"] == "worker.loop" and "cached" in str(entry)]
    of_first = [entry for entry in begun if entry["request_id"] == "named"]
    assert sorted(entry["worker_id"] for entry in of_first) == sorted(first["workers"])
    (ending,) = [entry for entry in log if entry["message"].startswith("shutting down")]
    assert "request_id" not in ending
    ids = {entry["request_id"] for entry in requests}
    assert len(begun) >= 5 and {entry["request_id"] for entry in begun} <= ids
    errors = Counter(entry.get("error", "") for entry in log if entry["logger"] == "gateway.access")
    assert errors["invalid_value"] == errors["model_not_found"] == errors["invalid_json"] == 1
    # What comes of a reload later is no part of the request for it.
    named = [entry for entry in log if entry.get("request_id") == "reload-1"]
    deaths = [entry for entry in log if re.search(r"worker . \(pid", entry["message"])]
    assert len(named) >= 3 and deaths and not any(each in named for each in deaths)


def test_the_console_has_a_line_for_each_request(echo_server: Server) -> None:
    echo_server.http.get("/no%0A2026-01-01 INFO")
    headers = {"x-request-id": "console-1"}
    echo_server.http.post(COMPLETIONS, json={"prompt": "abc"}, headers=headers)
    line = echo_server.wait_for_output(r"\n(.* console-1 .*)\n", "stderr")[1]
    assert re.fullmatch(
        r"[\d-]+ [\d:,]+ INFO gateway gateway\.access: POST /v1/completions 200 [\d.]+ ms console-1"
        r" stream=false outcome=stop workers=\d prompt_tokens=3 cached_tokens=\d"
        r" completion_tokens=3 queue_ms=[\d.]+ ttft_ms=[\d.]+",
        line,
    )
    assert "GET /no%0A2026-01-01%20INFO 404 " in echo_server.stderr


def test_the_official_client_knows_the_id_of_its_request(echo_server: Server) -> None:
    with openai.OpenAI(base_url=f"{echo_server.url}/v1", api_key="-") as client:
        answer = client.completions.create(
            model="echo", prompt="x", extra_headers={"x-request-id": "mine-7"}
        )
        assert answer._request_id == "mine-7"
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="echo", prompt="x", temperature=9)
        assert str(refused.value.request_id).startswith("req-")
        raw = client.completions.with_raw_response.create(model="echo", prompt="x")
        assert int(raw.headers["openai-processing-ms"]) >= 0


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def metrics(server: Server) -> Series:
    text = server.http.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    return sum(
        value
        for (found, its), value in series.items()
        if found == name and set(labels.items()) <= set(its)
    )


def test_the_metrics_add_up_after_mixed_traffic() -> None:
    usage: Counter[str] = Counter()
    with served("--workers", "2", MODEL_TYPE="echo", ECHO_DELAY_MS="2") as server:
        for number in range(3):
            body = {"prompt": ["ab" * 5, "cd"], "max_tokens": 4 + number, "model": "echo"}
            usage.update(flat(server.http.post(COMPLETIONS, json=body).json()["usage"]))
        for _ in range(2):
            assert server.http.post(COMPLETIONS, json={"prompt": 1}).status_code == 400
        with streamed(server, {"prompt": "stream"}, COMPLETIONS) as stream:
            list(stream)
        usage.update(prompt_tokens=6, completion_tokens=6)
        with streamed(server, long_chat()) as stream:
            next(stream)
        server.wait_until(lambda status: status["running"] == 0)
        server.wait_for_output(r"completions 499 ", "stderr")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_until(lambda status: status["workers"][0]["restarts"] == 1)
        server.wait_until_idle()
        found = metrics(server)
        again = metrics(server)
    assert total(found, "ggml_requests_total", endpoint=COMPLETIONS) == 6
    assert total(found, "ggml_requests_total", endpoint=COMPLETIONS, status="200") == 4
    assert total(found, "ggml_requests_total", status="499", finish_reason="cancelled") == 1
    assert total(found, "ggml_requests_rejected_total") == 2
    assert total(found, "ggml_requests_rejected_total", reason="invalid_value") == 2
    prompt_tokens = usage["prompt_tokens"] + 4000
    assert total(found, "ggml_prompt_tokens_total") == prompt_tokens
    assert total(found, "ggml_request_prompt_tokens_sum") == prompt_tokens
    generated = total(found, "ggml_request_generation_tokens_sum")
    assert generated == total(found, "ggml_worker_generation_tokens_total")
    assert usage["completion_tokens"] < generated < usage["completion_tokens"] + 4000
    assert total(found, "ggml_worker_requests_total") == 8
    assert 0 < total(found, "ggml_inter_token_latency_seconds_count") < generated
    assert total(found, "ggml_inter_token_latency_seconds_sum") > 0
    assert total(found, "ggml_worker_restarts_total", worker="0") == 1
    assert total(found, "ggml_worker_deaths_total", cause="killed") == 1
    assert total(found, "ggml_worker_state", state="idle") == 3
    assert total(found, "ggml_build_info", model="echo", family="echo") == 1
    asked = total(again, "ggml_requests_total", endpoint="/metrics")
    assert asked == total(found, "ggml_requests_total", endpoint="/metrics") + 1


def flat(usage: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in usage.items() if isinstance(value, int)}


def test_the_dashboard_asks_for_metrics_that_there_are(echo_server: Server) -> None:
    echo_server.http.post(COMPLETIONS, json={"prompt": "abc"})
    echo_server.http.post(COMPLETIONS, json={"prompt": 1})
    text = echo_server.http.get("/metrics").text
    there = {
        name
        for family in text_string_to_metric_families(text)
        for name in (family.name, f"{family.name}_total", *(s.name for s in family.samples))
    }
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = {name for each in targets for name in re.findall(r"\bggml_\w+", each["expr"])}
    assert len(asked) > 20 and asked <= there, asked - there
    # And the other way round: what is counted is shown.
    shown = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    ours = {family.name for family in text_string_to_metric_families(text)}
    assert {name for name in ours - shown if "process" not in name} == {"ggml_worker_state"}
    places = [json.dumps(panel["gridPos"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    for target in targets:
        assert target["datasource"]["uid"] == "${datasource}"
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        (name,) = re.findall(r"\bggml_\w+", target["expr"])[:1]
        known = {label for line in lines_of(text, name) for label in re.findall(r'(\w+)="', line)}
        assert labels <= known | {"instance", "cause"}, target


def lines_of(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]
