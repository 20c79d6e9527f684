"""Who gets in with a key, and who without."""

import logging

import httpx
import pytest

from gateway.app import create_app
from gateway.auth.access import Access
from gateway.auth.guard import OPEN_PATHS
from gateway.auth.key_file import FixedKeys
from tests.unit.gateway.auth.asking import COMPLETION, ask
from tests.unit.gateway.fakes import CONFIG, ScriptedPool, error

KEYED = Access(keys=FixedKeys("alice:alices-key,bob:bobs-secret"))
ALICE = {"authorization": "Bearer alices-key"}


def paths() -> list[str]:
    """Every path that the application serves, and some that it does not."""
    described = create_app(CONFIG, ScriptedPool()).openapi()["paths"]
    assert {"/v1/models/{model_id}", "/metrics", *OPEN_PATHS} <= set(described)
    known = [*described, "/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"]
    beside = ["//health", "/health/", "/health/x", "/Ready", "/ready%2f..", "/nothing", "/admin"]
    return [path.replace("{model_id}", "org/model") for path in known] + beside


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
def test_a_stranger_gets_nothing_but_what_is_open(path: str, method: str) -> None:
    response = ask(KEYED, method, path)
    if path in OPEN_PATHS or path.startswith("/admin/"):
        assert response.status_code != 401
        return
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    if method != "HEAD":
        assert error(response) == (401, "invalid_api_key", None)


@pytest.mark.parametrize(
    "headers",
    [
        ALICE,
        {"authorization": "bearer alices-key"},
        {"x-api-key": "alices-key"},
        {"x-api-key": "alices-key", "authorization": "Bearer none"},
        {"x-api-key": "none", "authorization": "Bearer bobs-secret"},
        {"x-api-key": "alices-key", "authorization": "Basic abc"},
    ],
)
def test_a_key_opens_everything(headers: dict[str, str]) -> None:
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/models", "/health", "/ready"):
        assert ask(KEYED, "GET", path, headers=headers).status_code == 200
    for path in ("/v1/completions", "/v1/chat/completions", "/v2/chat/completions"):
        assert ask(KEYED, "POST", path, headers=headers, json={}).status_code == 400
    response = ask(KEYED, "POST", "/v1/completions", headers=headers, json=COMPLETION)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-secret"},
        {"authorization": "Bearer alice"},
        {"authorization": "alices-key"},
        {"authorization": "Bearer alices-key,bobs-secret"},
        {"x-api-key": "wrong-secret"},
        {"api_key": "alices-key"},
        {"authorization": "Bearer"},
    ],
)
def test_a_wrong_key_opens_nothing_and_is_not_repeated(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool = ScriptedPool()
    response = ask(KEYED, "POST", "/v1/completions", pool, headers=headers, json=COMPLETION)
    assert error(response) == (401, "invalid_api_key", None)
    assert pool.requests == []
    said = response.text + caplog.text + str(response.headers)
    for secret in ("alices-key", "bobs-secret", "wrong-secret"):
        assert secret not in said


def test_a_key_in_the_url_does_not_count() -> None:
    assert ask(KEYED, "GET", "/v1/models?api_key=alices-key").status_code == 401


def test_options_is_open() -> None:
    assert ask(KEYED, "OPTIONS", "/v1/completions").status_code == 405


def test_strangers_are_told_only_whether_the_server_is_ready() -> None:
    assert ask(KEYED, "GET", "/ready").json() == {"state": "ready"}
    assert "workers" in ask(KEYED, "GET", "/ready", headers=ALICE).json()
    assert "workers" in ask(Access(), "GET", "/ready").json()


def test_the_name_of_the_key_is_logged_and_not_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    response: httpx.Response = ask(KEYED, "GET", "/v1/models", headers=ALICE)
    assert response.status_code == 200
    access = [record.getMessage() for record in caplog.records if "access" in record.name]
    assert any("alice" in message for message in access)
    assert "alices-key" not in caplog.text
