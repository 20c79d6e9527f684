"""Which names of this server a request may say."""

import pytest

from gateway.auth.access import Access
from gateway.auth.hosts import host_name, is_local
from tests.unit.gateway.auth.asking import COMPLETION, ask
from tests.unit.gateway.fakes import ScriptedPool, error

CHECKED = Access(checks_host=True, hosts=("llm.example.org", "*.inside.example.org"))


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("LocalHost:8000", "localhost"),
        ("localhost.", "localhost"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
        (" a.b ", "a.b"),
        ("", ""),
        (":80", ""),
    ],
)
def test_host_name(authority: str, name: str) -> None:
    assert host_name(authority) == name


def test_is_local() -> None:
    for name in ("localhost", "x.localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert is_local(name)
    for name in ("", "localhost.example.org", "notlocalhost", "127.0.0.1.example.org", "10.0.0.1",
                 "0.0.0.0", "::", "example.org"):  # fmt: skip
        assert not is_local(name)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST:1", "localhost.:8000", "app.localhost:8000",
        "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "[::1]", "llm.example.org",
        "LLM.example.org:443", "a.inside.example.org", "192.168.1.7:8000", "[fe80::1]:8000", "",
    ],
)  # fmt: skip
def test_a_host_that_is_ours(host: str) -> None:
    assert ask(CHECKED, "GET", "/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
        "example.org", "xllm.example.org", "inside.example.org", "[evil.example]:8000", "1.2.3",
        "localhost@evil.example", "\u00ff\u00fe",
    ],
)  # fmt: skip
def test_a_host_that_is_not_ours(host: str) -> None:
    pool = ScriptedPool()
    response = ask(
        CHECKED, "POST", "/v1/completions", pool,
        headers={"host": host.encode("latin-1")}, json=COMPLETION,
    )  # fmt: skip
    assert error(response) == (403, "host_not_allowed", None)
    assert "ALLOWED_HOSTS" in response.json()["error"]["message"]
    assert response.headers["x-request-id"]
    assert pool.requests == []


def test_no_check_unless_asked_for() -> None:
    assert ask(Access(), "GET", "/", headers={"host": "evil.example"}).status_code == 200
