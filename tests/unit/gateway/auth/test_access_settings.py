"""What the settings mean for who may use the server."""

import pytest

from gateway.auth import exposed
from gateway.settings import Settings
from shared.errors import UsageError
from tests.unit.gateway.auth.asking import KEYS, Asker, access

LOOPBACK = ["127.0.0.1", "localhost", "127.0.0.2", "::1", "LOCALHOST"]
PUBLIC = ["0.0.0.0", "::", "192.168.1.7", "llm.example.org", "fe80::1"]


@pytest.mark.parametrize(
    ("host", "names", "status"),
    [
        *((host, "", 403) for host in LOOPBACK),
        *((host, "", 200) for host in PUBLIC),
        ("127.0.0.1", "*", 200),
        ("127.0.0.1", "evil.example", 200),
        ("0.0.0.0", "llm.example.org", 403),
    ],
)
def test_hosts_are_checked_on_a_public_address_only_if_they_are_named(
    host: str, names: str, status: int
) -> None:
    ask = Asker(access(HOST=host, ALLOWED_HOSTS=names))
    assert ask("GET", "/v1/models", headers={"host": "evil.example"}).status_code == status
    assert ask("GET", "/v1/models").status_code == 200


def test_every_setting_counts() -> None:
    ask = Asker(
        access(
            API_KEYS="alice:alices-key",
            KEY_REQUESTS_PER_MINUTE="3",
            KEY_TOKENS_PER_MINUTE="5",
            CORS_ORIGINS="https://app.example.org",
            ALLOWED_HOSTS="llm.example.org",
        )
    )
    answer = ask.complete(
        x_api_key="alices-key", origin="https://app.example.org", host="llm.example.org"
    )
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-limit-tokens"] == "5"
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"KEY_REQUESTS_PER_MINUTE": "1"}, "KEY_REQUESTS_PER_MINUTE.*need API_KEYS"),
        ({"KEY_TOKENS_PER_MINUTE": "1"}, "KEY_TOKENS_PER_MINUTE.*need API_KEYS"),
        ({"KEY_CONCURRENT_REQUESTS": "1"}, "KEY_CONCURRENT_REQUESTS.*need API_KEYS"),
        ({"API_KEYS": "shorty"}, "API_KEYS: key 1"),
        ({"ADMIN_KEY": "shorty"}, "ADMIN_KEY: a key must have at least 8 characters"),
        ({"ADMIN_KEY": "with a space"}, "ADMIN_KEY: a key must be of visible ASCII"),
        ({"ADMIN_KEY": "space-at-end "}, "ADMIN_KEY: a key must be of visible ASCII"),
        ({"ADMIN_KEY": "alices-key", "API_KEYS": KEYS}, "key 1: ADMIN_KEY must not be one of API_"),
        ({"ALLOWED_HOSTS": "llm.example.org:8000"}, "without http:// and port"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        access(**settings)
    assert not any(key in str(caught.value) for key in ("shorty", "alices-key", "space-at-end"))


def test_the_key_for_admin_opens_nothing_else() -> None:
    ask = Asker(access(ADMIN_KEY="the-admin:key", API_KEYS="alice:alices-key"))
    headers = {"x-api-key": "the-admin:key"}
    assert ask("GET", "/v1/models", headers=headers).status_code == 401
    assert ask("GET", "/ready", headers=headers).json() == {"state": "ready"}


def test_a_public_address_without_a_key_is_warned_of() -> None:
    for host in PUBLIC:
        warning = exposed(Settings.load([], {"HOST": host}))
        assert warning is not None
        assert "API_KEYS" in warning and f"HOST={host}" in warning
        assert exposed(Settings.load([], {"HOST": host, "API_KEYS": "a-long-key"})) is None
    for host in LOOPBACK:
        assert exposed(Settings.load([], {"HOST": host})) is None
