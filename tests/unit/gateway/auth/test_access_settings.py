"""What the settings mean for who may use the server."""

import pytest

from gateway.auth import exposed, is_for_this_machine
from gateway.settings import Settings
from shared.errors import UsageError
from tests.unit.gateway.auth.asking import KEYS, Asker, access

LOOPBACK = ["127.0.0.1", "localhost", "127.0.0.2", "::1", "LOCALHOST"]
PUBLIC = ["0.0.0.0", "::", "192.168.1.7", "llm.example.org", "fe80::1"]


@pytest.mark.parametrize("address", [*LOOPBACK, *PUBLIC])
def test_a_public_address_without_a_key_is_warned_of(address: str) -> None:
    warning = exposed(Settings(host=address))
    assert (warning is None) == is_for_this_machine(address) == (address in LOOPBACK)
    assert warning is None or ("API_KEYS" in warning and f"HOST={address}" in warning)
    assert exposed(Settings(host=address, api_keys="a-long-key")) is None


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "evil.example", 403),
        ({"ALLOWED_HOSTS": "*"}, "evil.example", 200),
        *(({"HOST": address}, "llm.example.org", 200) for address in PUBLIC),
        ({"HOST": "::", "ALLOWED_HOSTS": "other.example.org"}, "llm.example.org", 403),
        ({"HOST": "::", "ALLOWED_HOSTS": "other.example.org"}, "other.example.org", 200),
    ],
)
def test_hosts_are_checked_on_a_loopback_address_or_if_they_are_named(
    settings: dict[str, str], host: str, status: int
) -> None:
    assert Asker(access(**settings)).complete(host=host).status_code == status


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
