"""Which web pages may use the server, what their browsers are told, and by which names of it."""

from typing import Any

import pytest

from tests.unit.gateway.auth.asking import KEYS, Asker, access
from tests.unit.gateway.fakes import ScriptedPool, error

PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}
LOCAL = [
    "http://localhost", "http://localhost:3000", "https://localhost:8443", "http://127.0.0.1:5173",
    "http://[::1]:8080", "http://app.localhost:3000", "http://127.8.8.8",
]  # fmt: skip
FOREIGN = [
    "null", "https://evil.example", "http://localhost.evil.example", "https://app.example.org:444",
    "http://app.example.org", "https://pages.example", "https://a.pages.example.evil.example",
    "file://", "chrome-extension://abcdef", "http://localhost:port", "localhost", "x" * 5000,
    "https://appXexample.org", "http://evil.example@localhost", "http://127.0.0.1.evil.example",
    "http://notlocalhost", "http://[::2]", "http://10.0.0.1", "http://", "://",
]  # fmt: skip


def preflight(ask: Asker, origin: str, **more: str) -> Any:
    headers = {"origin": origin, **PREFLIGHT, **more}
    return ask("OPTIONS", "/v1/completions", headers=headers)


@pytest.fixture(scope="module")
def named() -> Asker:
    """A server for some pages by name."""
    origins = "https://app.example.org,https://*.pages.example,vscode-webview://*"
    return Asker(access(CORS_ORIGINS=origins, HOST="0.0.0.0"))


@pytest.fixture(scope="module")
def public() -> Asker:
    """A server for local pages and its own, whatever it is called."""
    return Asker(access(HOST="0.0.0.0"))


@pytest.mark.parametrize(
    "origin",
    [
        *LOCAL, "https://app.example.org", "HTTPS://APP.example.org", "https://a.pages.example",
        "vscode-webview://1f3k",
    ],
)  # fmt: skip
def test_a_page_that_may(origin: str, named: Asker) -> None:
    for response in (
        named("GET", "/v1/models", headers={"origin": origin}),
        preflight(named, origin),
    ):
        assert response.is_success
        assert response.headers["access-control-allow-origin"] == origin
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_that_may_not(origin: str, named: Asker, public: Asker) -> None:
    for response in (named.complete(origin=origin), preflight(named, origin)):
        assert error(response) == (403, "origin_not_allowed", None)
        assert "CORS_ORIGINS" in response.json()["error"]["message"]
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["x-request-id"]
    assert public.complete(origin=origin).status_code == 403
    assert named.pool.requests == public.pool.requests == []


def test_only_local_pages_by_default_and_programs(public: Asker) -> None:
    assert "access-control-allow-origin" not in public("GET", "/health").headers
    for origin in LOCAL:
        assert preflight(public, origin).status_code == 200
    for origin in ("https://app.example.org", "vscode-webview://1f3k"):
        assert preflight(public, origin).status_code == 403


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://llm.example.org", "llm.example.org", True),
        ("https://llm.example.org", "llm.example.org:443", True),
        ("http://llm.example.org", "llm.example.org", True),
        ("http://llm.example.org:8000", "LLM.example.org:8000", True),
        ("http://192.168.1.7:8000", "192.168.1.7:8000", True),
        ("https://llm.example.org", "other.example.org", False),
        ("https://llm.example.org", "llm.example.org:80", False),
        ("http://llm.example.org:8001", "llm.example.org:8000", False),
        ("http://llm.example.org", "llm.example.org:8000", False),
        ("null", "null", False),
        ("http://", "", False),
    ],
)
def test_a_page_of_this_server_may(origin: str, host: str, is_own: bool, public: Asker) -> None:
    headers = {"origin": origin, "host": host}
    assert public("GET", "/v1/models", headers=headers).is_success == is_own


@pytest.mark.parametrize("site", ["same-origin", "same-site", "cross-site", "none", ""])
def test_a_browser_knows_whether_a_page_is_of_this_server(site: str, public: Asker) -> None:
    # As behind a reverse proxy that sets `Host` to the address it connects to.
    headers = {"origin": "https://llm.example.org", "sec-fetch-site": site}
    response = public("GET", "/v1/models", headers=headers)
    assert response.is_success == (site == "same-origin")


def test_all_pages_may_if_the_settings_say_so_but_never_with_credentials() -> None:
    everybody = Asker(access(CORS_ORIGINS="*"))
    body = {"prompt": "x", "stream": True}
    streamed = everybody("POST", "/v1/completions", headers={"origin": "null"}, json=body)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert streamed.headers["access-control-allow-origin"] == "*"
    for origin in (*LOCAL, *FOREIGN):
        for response in (everybody.complete(origin=origin), preflight(everybody, origin)):
            assert response.is_success
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


def test_a_preflight_is_answered_before_a_key_is_asked_for() -> None:
    keyed = Asker(access(API_KEYS=KEYS))
    private = {"access-control-request-private-network": "true"}
    response = preflight(keyed, "http://localhost:3000", **private)
    assert response.status_code == 200
    allowed = "authorization,content-type,x-stainless-os"
    assert response.headers["access-control-allow-headers"] == allowed
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-max-age"] == "600"
    assert response.headers["access-control-allow-private-network"] == "true"
    assert "x-request-id" in response.headers


def test_a_page_can_read_errors_and_the_headers_of_ours() -> None:
    def explode(_: object) -> list[Any]:
        raise RuntimeError("a bug")

    ask = Asker(access(API_KEYS=KEYS), ScriptedPool(explode))
    known = {"origin": "http://localhost:3000", "x-api-key": "alices-key"}
    answers = [
        ask.complete(origin=known["origin"]),
        ask.complete(**known, host="evil.example"),
        ask.complete(**known),
        ask("GET", "/nothing", headers=known),
        ask("GET", "/openapi.json", headers=known),
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 500, 404, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == known["origin"]
        readable = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"x-request-id", "retry-after", "x-ratelimit-reset-tokens"} <= readable


@pytest.fixture(scope="module")
def checked() -> Asker:
    """A server with names of its own."""
    return Asker(access(ALLOWED_HOSTS="llm.example.org,*.inside.example.org"))


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST:1", "localhost.:8000", "app.localhost:8000",
        "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "[::1]", "llm.example.org",
        "LLM.example.org:443", "a.inside.example.org", "192.168.1.7:8000", "[fe80::1]:8000", "",
        ":80",
    ],
)  # fmt: skip
def test_a_host_that_is_ours(host: str, checked: Asker) -> None:
    assert checked("GET", "/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
        "example.org", "xllm.example.org", "inside.example.org", "[evil.example]:8000", "1.2.3",
        "localhost@evil.example", "notlocalhost", "\u00ff\u00fe",
    ],
)  # fmt: skip
def test_a_host_that_is_not_ours(host: str, checked: Asker) -> None:
    response = checked("GET", "/v1/models", headers={"host": host.encode("latin-1")})
    assert error(response) == (403, "host_not_allowed", None)
    assert "ALLOWED_HOSTS" in response.json()["error"]["message"]
    assert response.headers["x-request-id"]
