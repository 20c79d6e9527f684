"""What the settings mean for who may use the server."""

import dataclasses

import pytest

from gateway.auth.access import access_for, exposed, is_loopback
from gateway.settings import Settings
from shared.errors import UsageError
from tests.unit.gateway.auth.asking import COMPLETION, ask

LOOPBACK = ["127.0.0.1", "localhost", "127.0.0.2", "::1", "LOCALHOST"]
PUBLIC = ["0.0.0.0", "::", "", "192.168.1.7", "llm.example.org", "fe80::1"]


def settings(**changes: str) -> Settings:
    return Settings.load([], changes)


def test_loopback() -> None:
    assert all(is_loopback(host) for host in LOOPBACK)
    assert not any(is_loopback(host) for host in PUBLIC)


def test_everybody_on_this_machine_by_default() -> None:
    access = access_for(settings())
    assert access.keys is None and not access.rates and access.origins == ()
    assert ask(access, "POST", "/v1/completions", json=COMPLETION).status_code == 200
    evil = {"host": "evil.example"}
    assert ask(access, "GET", "/v1/models", headers=evil).status_code == 403


@pytest.mark.parametrize("host", PUBLIC)
def test_hosts_are_checked_on_a_public_address_only_if_they_are_named(host: str) -> None:
    public = dataclasses.replace(settings(), host=host)
    name = {"host": "llm.example.org"}
    assert ask(access_for(public), "GET", "/v1/models", headers=name).status_code == 200
    named = access_for(dataclasses.replace(public, allowed_hosts=("other.example.org",)))
    assert ask(named, "GET", "/v1/models", headers=name).status_code == 403
    other = {"host": "other.example.org"}
    assert ask(named, "GET", "/v1/models", headers=other).status_code == 200


def test_any_host_if_the_settings_say_so() -> None:
    access = access_for(settings(ALLOWED_HOSTS="*"))
    evil = {"host": "evil.example"}
    assert ask(access, "GET", "/v1/models", headers=evil).status_code == 200


def test_a_host_with_its_port_would_never_be_met() -> None:
    with pytest.raises(UsageError, match="without http:// and port"):
        settings(ALLOWED_HOSTS="llm.example.org:8000")


def test_every_setting_counts() -> None:
    access = access_for(
        settings(
            API_KEYS="alice:alices-key",
            KEY_REQUESTS_PER_MINUTE="3",
            KEY_TOKENS_PER_MINUTE="5",
            KEY_CONCURRENT_REQUESTS="2",
            CORS_ORIGINS="https://app.example.org",
            ALLOWED_HOSTS="llm.example.org",
        )
    )
    headers = {
        "x-api-key": "alices-key",
        "origin": "https://app.example.org",
        "host": "llm.example.org",
    }
    answer = ask(access, "POST", "/v1/completions", headers=headers, json=COMPLETION)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-limit-tokens"] == "5"
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    assert access.rates.concurrent == 2


def test_limits_need_keys() -> None:
    for name in ("REQUESTS_PER_MINUTE", "TOKENS_PER_MINUTE", "CONCURRENT_REQUESTS"):
        with pytest.raises(UsageError, match=f"KEY_{name}.*API_KEYS"):
            access_for(settings(**{f"KEY_{name}": "1"}))


def test_keys_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match="API_KEYS: key 1"):
        access_for(settings(API_KEYS="short"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ADMIN_KEY": "short"}, "ADMIN_KEY: a key must have at least 8 characters"),
        ({"ADMIN_KEY": "with a space"}, "ADMIN_KEY: a key must be of visible ASCII"),
        ({"ADMIN_KEY": "alices-key", "API_KEYS": "b:bobs-key-1,a:alices-key"}, "one of API_KEYS"),
    ],
)
def test_a_key_for_admin_that_cannot_be_used(given: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        access_for(settings(**given))
    assert given["ADMIN_KEY"] not in str(caught.value)


def test_the_key_for_admin_opens_nothing_else() -> None:
    access = access_for(settings(ADMIN_KEY="the-admin:key", API_KEYS="alice:alices-key"))
    headers = {"x-api-key": "the-admin:key"}
    assert ask(access, "GET", "/v1/models", headers=headers).status_code == 401
    assert ask(access, "GET", "/ready", headers=headers).json() == {"state": "ready"}


def test_a_public_address_without_a_key_is_warned_of() -> None:
    for host in PUBLIC:
        warning = exposed(dataclasses.replace(settings(), host=host))
        assert warning is not None
        assert "API_KEYS" in warning and f"HOST={host}" in warning
        keyed = dataclasses.replace(settings(API_KEYS="a-long-key"), host=host)
        assert exposed(keyed) is None
    for host in LOOPBACK:
        assert exposed(dataclasses.replace(settings(), host=host)) is None
