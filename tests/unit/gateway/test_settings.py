"""Tests of the settings: every one of them, from both sources."""

import dataclasses
from typing import Any

import pytest

from gateway.settings import Settings
from shared.errors import UsageError

# setting: (a text, its value, another text, its value)
VALUES: dict[str, tuple[str, Any, str, Any]] = {
    "model_name": ("some/model", "some/model", "other.gguf", "other.gguf"),
    "model_file": ("a.gguf", "a.gguf", "b.gguf", "b.gguf"),
    "model_type": ("echo", "echo", "GPT_BigCode", "gpt_bigcode"),
    "tokenizer": ("tokenizer.json", "tokenizer.json", "/x/t.json", "/x/t.json"),
    "chat_template": ("chatml", "chatml", "Own.jinja", "Own.jinja"),
    "workers": ("3", 3, "auto", None),
    "parked": ("0", 0, "auto", None),
    "warm_prompt": ("You are kind.", "You are kind.", "@a.txt", "@a.txt"),
    "threads": ("4", 4, "auto", None),
    "host": ("0.0.0.0", "0.0.0.0", "::1", "::1"),
    "port": ("0", 0, "65535", 65535),
    "context_length": ("8", 8, "1048576", 1048576),
    "max_queue": ("0", 0, "1000000", 1000000),
    "log_level": ("DEBUG", "debug", "error", "error"),
    "max_body_bytes": ("1024", 1024, "1073741824", 1073741824),
    "drain_timeout": ("0", 0.0, "1.5", 1.5),
    "max_queue_seconds": ("0", 0.0, "2.5", 2.5),
    "queue_timeout": ("0", 0.0, "2.5", 2.5),
    "request_timeout": ("0", 0.0, "2.5", 2.5),
    "receive_timeout": ("0", 0.0, "2.5", 2.5),
    "send_timeout": ("0", 0.0, "2.5", 2.5),
    "keep_alive_timeout": ("0", 0.0, "2.5", 2.5),
    "max_connections": ("1", 1, "auto", None),
    "max_header_bytes": ("1024", 1024, "16777216", 1 << 24),
    "start_timeout": ("0", 0.0, "2.5", 2.5),
    "stall_timeout": ("0.5", 0.5, "auto", None),
    "max_worker_memory": ("512M", 512 << 20, "2GiB", 2 << 30),
    "min_free_memory": ("0", 0, "64kb", 64 << 10),
    "api_keys": ("a,me:b", "a,me:b", "@keys.txt", "@keys.txt"),
    "admin_key": ("secret", "secret", "other", "other"),
    "key_requests_per_minute": ("1", 1, "2147483648", 1 << 31),
    "key_tokens_per_minute": ("1", 1, "2147483648", 1 << 31),
    "key_concurrent_requests": ("1", 1, "2147483648", 1 << 31),
    "cors_origins": ("*", ("*",), "https://a.org, HTTP://b:80", ("https://a.org", "http://b")),
    "allowed_hosts": ("box", ("box",), "Box.lan, ::1", ("box.lan", "::1")),
    "ssl_certfile": ("c.pem", "c.pem", "/x/c.pem", "/x/c.pem"),
    "ssl_keyfile": ("k.pem", "k.pem", "/x/k.pem", "/x/k.pem"),
    "ssl_keyfile_password": ("p", "p", "q", "q"),
    "log_format": ("JSON", "json", "console", "console"),
    "log_prompts": ("1", True, "no", False),
    "otel": ("1", True, "no", False),
    "ct_lib": ("avx2", "avx2", "/x/lib.so", "/x/lib.so"),
    "echo_delay_ms": ("0.25", 0.25, "60000", 60000.0),
}
DEFAULTS = {
    "model_name": None,
    "model_file": None,
    "model_type": None,
    "tokenizer": None,
    "chat_template": None,
    "workers": None,
    "parked": None,
    "warm_prompt": None,
    "threads": None,
    "host": "127.0.0.1",
    "port": 8000,
    "context_length": None,
    "max_queue": 64,
    "log_level": "info",
    "max_body_bytes": 2 << 20,
    "drain_timeout": 30.0,
    "max_queue_seconds": 300.0,
    "queue_timeout": 300.0,
    "request_timeout": 3600.0,
    "receive_timeout": 60.0,
    "send_timeout": 60.0,
    "keep_alive_timeout": 65.0,
    "max_connections": None,
    "max_header_bytes": 64 << 10,
    "start_timeout": 600.0,
    "stall_timeout": None,
    "max_worker_memory": None,
    "min_free_memory": 256 << 20,
    "api_keys": None,
    "admin_key": None,
    "key_requests_per_minute": 0,
    "key_tokens_per_minute": 0,
    "key_concurrent_requests": 0,
    "cors_origins": (),
    "allowed_hosts": (),
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_keyfile_password": None,
    "log_format": "console",
    "log_prompts": False,
    "otel": False,
    "ct_lib": None,
    "echo_delay_ms": 0.0,
}
BAD: list[tuple[str, str, str]] = [
    (
        "model_type",
        "bloom",
        "one of: llama, falcon, starcoder, mpt, gpt2, gpt-neox, gguf, echo",
    ),
    ("workers", "0", "auto, or a whole number from 1 to 1024"),
    ("workers", "1025", "auto, or a whole number from 1 to 1024"),
    ("workers", "many", "auto, or a whole number from 1 to 1024"),
    ("workers", "1.5", "auto, or a whole number from 1 to 1024"),
    ("parked", "-1", "auto, or a whole number from 0 to 256"),
    ("parked", "257", "auto, or a whole number from 0 to 256"),
    ("threads", "-1", "auto, or a whole number from 1 to 256"),
    ("threads", "257", "auto, or a whole number from 1 to 256"),
    ("port", "65536", "a whole number from 0 to 65535"),
    ("port", "-1", "a whole number from 0 to 65535"),
    ("port", "http", "a whole number from 0 to 65535"),
    ("context_length", "7", "a whole number from 8 to 1048576"),
    ("context_length", "1048577", "a whole number from 8 to 1048576"),
    ("context_length", "auto", "a whole number from 8 to 1048576"),
    ("max_queue", "-1", "a whole number from 0 to 1000000"),
    ("max_queue", "1000001", "a whole number from 0 to 1000000"),
    ("log_level", "loud", "one of: debug, info, warning, error"),
    ("max_body_bytes", "1023", "a whole number from 1024 to 1073741824"),
    ("max_body_bytes", "2M", "a whole number from 1024 to 1073741824"),
    *(
        (name, "-0.1", "a number of seconds from 0 to 86400")
        for name in (
            "drain_timeout",
            "max_queue_seconds",
            "queue_timeout",
            "request_timeout",
            "receive_timeout",
            "send_timeout",
            "keep_alive_timeout",
            "start_timeout",
        )
    ),
    *(
        (name, "-1", "a whole number from 0 to 2147483648")
        for name in (
            "key_requests_per_minute",
            "key_tokens_per_minute",
            "key_concurrent_requests",
        )
    ),
    ("max_header_bytes", "1023", "a whole number from 1024 to 16777216"),
    ("drain_timeout", "86401", "a number of seconds from 0 to 86400"),
    ("drain_timeout", "nan", "a number of seconds from 0 to 86400"),
    ("drain_timeout", "inf", "a number of seconds from 0 to 86400"),
    ("stall_timeout", "-1", "auto, or a number of seconds from 0 to 86400"),
    ("max_connections", "0", "auto, or a whole number from 1 to 1000000"),
    ("max_worker_memory", "-1", "a size like 512M or 2G, or a number of bytes"),
    ("max_worker_memory", "1.5G", "a size like 512M or 2G, or a number of bytes"),
    ("max_worker_memory", "2 giga", "a size like 512M or 2G, or a number of bytes"),
    ("min_free_memory", "G", "a size like 512M or 2G, or a number of bytes"),
    ("min_free_memory", "\u0663", "a size like 512M or 2G, or a number of bytes"),
    (
        "cors_origins",
        "https://a.org/",
        "origins like https://example.org, without a path, with commas between; or *",
    ),
    (
        "cors_origins",
        "*, a.org",
        "origins like https://example.org, without a path, with commas between; or *",
    ),
    (
        "allowed_hosts",
        "https://a.org",
        "names of hosts, without http:// and port, with commas between",
    ),
    ("log_format", "xml", "one of: console, json"),
    ("log_prompts", "2", "1 or 0"),
    ("otel", "yes!", "1 or 0"),
    ("echo_delay_ms", "soon", "a number of milliseconds from 0 to 60000"),
    ("echo_delay_ms", "60001", "a number of milliseconds from 0 to 60000"),
]


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_these_are_all_settings() -> None:
    names = [field.name for field in dataclasses.fields(Settings)]
    assert names == list(VALUES) == list(DEFAULTS)


def test_defaults() -> None:
    assert dataclasses.asdict(Settings.load([], {})) == DEFAULTS
    assert Settings.load([], {}) == Settings()


@pytest.mark.parametrize("name", VALUES)
def test_option(name: str) -> None:
    text, value, other_text, other_value = VALUES[name]
    for given, expected in ((text, value), (other_text, other_value)):
        for arguments in ([option(name), given], [f"{option(name)}={given}"]):
            settings = Settings.load(arguments, {})
            assert dataclasses.asdict(settings) == {**DEFAULTS, name: expected}


@pytest.mark.parametrize("name", VALUES)
def test_variable(name: str) -> None:
    text, value, other_text, other_value = VALUES[name]
    for given, expected in ((text, value), (other_text, other_value)):
        settings = Settings.load([], {name.upper(): given, "PATH": "/bin"})
        assert dataclasses.asdict(settings) == {**DEFAULTS, name: expected}


@pytest.mark.parametrize("name", VALUES)
def test_option_wins_over_variable(name: str) -> None:
    text, value, other_text, _ = VALUES[name]
    settings = Settings.load([option(name), text], {name.upper(): other_text})
    assert getattr(settings, name) == value


@pytest.mark.parametrize("name", VALUES)
def test_empty_variable_is_not_set(name: str) -> None:
    assert Settings.load([], {name.upper(): ""}) == Settings()


@pytest.mark.parametrize("name", VALUES)
def test_lower_case_variable_is_no_setting(name: str) -> None:
    assert Settings.load([], {name: VALUES[name][0]}) == Settings()


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    for source, arguments, environment in (
        (option(name), [f"{option(name)}={text}"], {}),
        (name.upper(), [], {name.upper(): text}),
    ):
        with pytest.raises(UsageError) as caught:
            Settings.load(arguments, environment)
        assert str(caught.value) == f"{source}={text!r} is not allowed; it must be {allowed}"


def test_every_setting_that_is_not_free_text_has_a_bad_value() -> None:
    free_text = {
        "model_name", "model_file", "tokenizer", "chat_template", "warm_prompt", "host", "ct_lib",
        "api_keys", "admin_key", "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password",
    }  # fmt: skip
    assert {name for name, _, _ in BAD} == set(VALUES) - free_text


@pytest.mark.parametrize("arguments", [["--work", "3"], ["--worker", "3"], ["3"], ["--port"]])
def test_unknown_option(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.load(arguments, {})
    assert caught.value.code == 2
    assert "usage: ggml-fastapi" in capsys.readouterr().err


def test_help_tells_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.load(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in VALUES:
        assert option(name) in shown
    assert "default: 8000" in shown


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_no_memory_is_no_bound() -> None:
    settings = Settings.load([], {"MAX_WORKER_MEMORY": "0", "MIN_FREE_MEMORY": "0"})
    assert (settings.max_worker_memory, settings.min_free_memory) == (None, 0)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("https://example.org:443", "https://example.org"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://example.org:80", "https://example.org:80"),
        ("vscode-webview://a:443", "vscode-webview://a:443"),
    ],
)
def test_origins_become_what_browsers_send(given: str, means: str) -> None:
    assert Settings.load([], {"CORS_ORIGINS": given}).cors_origins == (means,)


def test_hosts_have_no_final_dot() -> None:
    settings = Settings.load([], {"ALLOWED_HOSTS": "llm.example.org., *.Example.com."})
    assert settings.allowed_hosts == ("llm.example.org", "*.example.com")
    with pytest.raises(UsageError, match="ALLOWED_HOSTS"):
        Settings.load([], {"ALLOWED_HOSTS": "."})
