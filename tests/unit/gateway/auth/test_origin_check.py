"""Which web pages may use the server, and what their browsers are told."""

from typing import Any

import httpx
import pytest

from gateway.auth.access import Access
from gateway.auth.key_file import FixedKeys
from tests.unit.gateway.auth.asking import COMPLETION, ask
from tests.unit.gateway.fakes import ScriptedPool, error

NAMED = Access(origins=("https://app.example.org", "https://*.pages.example", "vscode-webview://*"))
LOCAL = [
    "http://localhost", "http://localhost:3000", "https://localhost:8443", "http://127.0.0.1:5173",
    "http://[::1]:8080", "http://app.localhost:3000", "http://127.8.8.8",
]  # fmt: skip
FOREIGN = [
    "null", "https://evil.example", "http://localhost.evil.example", "https://app.example.org:444",
    "http://app.example.org", "https://pages.example", "https://a.pages.example.evil.example",
    "file://", "chrome-extension://abcdef", "http://localhost:port", "localhost", "x" * 5000,
    "https://appXexample.org",
]  # fmt: skip


def complete(access: Access, origin: str, pool: ScriptedPool | None = None, **more: str) -> Any:
    headers = {"origin": origin, **{name.replace("_", "-"): value for name, value in more.items()}}
    return ask(access, "POST", "/v1/completions", pool, headers=headers, json=COMPLETION)


def preflight(access: Access, origin: str, **more: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        **more,
    }
    return ask(access, "OPTIONS", "/v1/completions", headers=headers)


@pytest.mark.parametrize(
    "origin",
    [
        *LOCAL, "https://app.example.org", "HTTPS://APP.example.org", "https://a.pages.example",
        "vscode-webview://1f3k",
    ],
)  # fmt: skip
def test_a_page_that_may(origin: str) -> None:
    for response in (complete(NAMED, origin), preflight(NAMED, origin)):
        assert response.is_success
        assert response.headers["access-control-allow-origin"] == origin
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-credentials" not in response.headers


def test_a_page_can_read_a_stream() -> None:
    headers = {"origin": LOCAL[0]}
    body = {**COMPLETION, "stream": True}
    response = ask(Access(), "POST", "/v1/completions", headers=headers, json=body)
    assert response.text.endswith("data: [DONE]\n\n")
    assert response.headers["access-control-allow-origin"] == LOCAL[0]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_that_may_not(origin: str) -> None:
    pool = ScriptedPool()
    for response in (complete(NAMED, origin, pool), preflight(NAMED, origin)):
        assert error(response) == (403, "origin_not_allowed", None)
        assert "CORS_ORIGINS" in response.json()["error"]["message"]
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["x-request-id"]
    assert pool.requests == []


def test_only_local_pages_by_default() -> None:
    for origin in LOCAL:
        assert complete(Access(), origin).status_code == 200
    for origin in (*FOREIGN, "https://app.example.org", "vscode-webview://1f3k"):
        assert complete(Access(), origin).status_code == 403


def test_a_program_is_not_asked_and_not_told() -> None:
    response = ask(Access(), "POST", "/v1/completions", json=COMPLETION)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://llm.example.org", "llm.example.org"),
        ("https://llm.example.org", "llm.example.org:443"),
        ("http://llm.example.org", "llm.example.org"),
        ("http://llm.example.org:8000", "LLM.example.org:8000"),
        ("http://192.168.1.7:8000", "192.168.1.7:8000"),
    ],
)
def test_a_page_of_this_server(origin: str, host: str) -> None:
    assert complete(Access(), origin, host=host).status_code == 200


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://llm.example.org", "other.example.org"),
        ("http://llm.example.org:8001", "llm.example.org:8000"),
        ("http://llm.example.org", "llm.example.org:8000"),
        ("null", "null"),
    ],
)
def test_a_page_of_another_server(origin: str, host: str) -> None:
    assert complete(Access(), origin, host=host).status_code == 403


def test_a_browser_knows_whether_a_page_is_of_this_server() -> None:
    # As behind a reverse proxy that sets `Host` to the address it connects to.
    origin = "https://llm.example.org"
    assert complete(Access(), origin, sec_fetch_site="same-origin").status_code == 200
    for site in ("same-site", "cross-site", "none", ""):
        assert complete(Access(), origin, sec_fetch_site=site).status_code == 403


def test_all_pages_may_if_the_settings_say_so_but_never_with_credentials() -> None:
    everybody = Access(origins=("*",))
    for origin in (*LOCAL, *FOREIGN):
        for response in (complete(everybody, origin), preflight(everybody, origin)):
            assert response.is_success
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


def test_a_preflight_is_answered_before_a_key_is_asked_for() -> None:
    keyed = Access(keys=FixedKeys("alice:alices-key"))
    response = preflight(
        keyed, "http://localhost:3000", **{"access-control-request-private-network": "true"}
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-headers"] == (
        "authorization,content-type,x-stainless-os"
    )
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-max-age"] == "600"
    assert response.headers["access-control-allow-private-network"] == "true"
    assert "x-request-id" in response.headers


def test_a_page_can_read_errors_and_the_headers_of_ours() -> None:
    keyed = Access(keys=FixedKeys("alice:alices-key"), checks_host=True)
    origin = "http://localhost:3000"

    def explode(_: object) -> list[Any]:
        raise RuntimeError("a bug")

    refused = [
        complete(keyed, origin),
        complete(keyed, origin, host="evil.example"),
        complete(keyed, origin, ScriptedPool(explode), x_api_key="alices-key"),
        ask(Access(), "GET", "/nothing", headers={"origin": origin}),
        ask(Access(), "GET", "/openapi.json", headers={"origin": origin}),
    ]
    assert [response.status_code for response in refused] == [401, 403, 500, 404, 200]
    for response in refused:
        assert response.headers["access-control-allow-origin"] == origin
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-ratelimit-reset-tokens"} <= set(exposed)
