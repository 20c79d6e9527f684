"""Tests of the settings: every one of them, from both sources."""

import dataclasses
from typing import Any

import pytest

from gateway.settings import Settings
from shared.errors import UsageError

# setting: its default, a text, its value, another text, its value; one value if it is the text
TABLE: dict[str, tuple[Any, ...]] = {
    "model_name": (None, "some/model", "other.gguf"),
    "model_file": (None, "a.gguf", "b.gguf"),
    "model_type": (None, "echo", "echo", "GPT_BigCode", "gpt_bigcode"),
    "tokenizer": (None, "tokenizer.json", "/x/t.json"),
    "chat_template": (None, "chatml", "Own.jinja"),
    "context_length": (None, "8", 8, "1048576", 1048576),
    "workers": (None, "3", 3, "auto", None),
    "parked": (None, "0", 0, "auto", None),
    "threads": (None, "4", 4, "auto", None),
    "warm_prompt": (None, "You are kind.", "@a.txt"),
    "engine": ("auto", "llamacpp", "llamacpp", "CTransformers", "ctransformers"),
    "ct_lib": (None, "avx2", "/x/lib.so"),
    "llama_lib": (None, "/x/llama.so", "/x/llama.so@2026.10.11549"),
    "cache_type": ("f16", "Q8_0", "q8_0", "f16", "f16"),
    "lora": (None, "a.gguf:0.5,b.gguf", "c.gguf"),
    "echo_delay_ms": (0.0, "0.25", 0.25, "60000", 60000.0),
    "slots": (None, "1", 1, "64", 64),
    "prefix_cache": (None, "2G", 2 << 30, "0", 0),
    "exact": (False, "1", True, "no", False),
    "host": ("127.0.0.1", "0.0.0.0", "::1"),
    "port": (8000, "0", 0, "65535", 65535),
    "ssl_certfile": (None, "c.pem", "/x/c.pem"),
    "ssl_keyfile": (None, "k.pem", "/x/k.pem"),
    "ssl_keyfile_password": (None, "p", "q"),
    "log_level": ("info", "DEBUG", "debug", "error", "error"),
    "log_format": ("console", "JSON", "json", "console", "console"),
    "log_prompts": (False, "1", True, "no", False),
    "otel": (False, " ON", True, "false", False),
    "max_queue": (64, "0", 0, "1000000", 1000000),
    "max_queue_seconds": (300.0, "0", 0.0, "2.5", 2.5),
    "queue_timeout": (300.0, "0", 0.0, "2.5", 2.5),
    "request_timeout": (3600.0, "0", 0.0, "2.5", 2.5),
    "receive_timeout": (60.0, "0", 0.0, "2.5", 2.5),
    "send_timeout": (60.0, "0", 0.0, "2.5", 2.5),
    "keep_alive_timeout": (65.0, "0", 0.0, "2.5", 2.5),
    "drain_timeout": (30.0, "0", 0.0, "1.5", 1.5),
    "start_timeout": (600.0, "0", 0.0, "2.5", 2.5),
    "stall_timeout": (None, "0.5", 0.5, "auto", None),
    "max_connections": (None, "1", 1, "auto", None),
    "max_header_bytes": (64 << 10, "1024", 1024, "16777216", 1 << 24),
    "max_body_bytes": (2 << 20, "1024", 1024, "1073741824", 1 << 30),
    "max_worker_memory": (None, "512M", 512 << 20, "0", None),
    "min_free_memory": (256 << 20, "2GiB", 2 << 30, "64kb", 64 << 10),
    "api_keys": (None, "a,me:b", "@keys.txt"),
    "admin_key": (None, "secret", "other"),
    "key_requests_per_minute": (0, "1", 1, "2147483648", 1 << 31),
    "key_tokens_per_minute": (0, "1", 1, "2147483648", 1 << 31),
    "key_concurrent_requests": (0, "1", 1, "2147483648", 1 << 31),
    "cors_origins": ((), "*", ("*",), "https://a.org, HTTP://b:80", ("https://a.org", "http://b")),
    "allowed_hosts": ((), "box", ("box",), "Box.lan, ::1", ("box.lan", "::1")),
}
VALUES = [
    (name, *pair)
    for name, (_, *texts) in TABLE.items()
    for pair in ([(text, text) for text in texts] if len(texts) == 2 else [texts[:2], texts[2:]])
]
SECONDS = "a number of seconds from 0 to 86400"
OTHER_SECONDS = [name for name, row in TABLE.items() if row[1:] == ("0", 0.0, "2.5", 2.5)]
ORIGINS = "origins like https://example.org, without a path, with commas between; or *"
HOSTS = "names of hosts, without http:// and port, with commas between"
SIZE = "a size like 512M or 2G, or a number of bytes"
# what is allowed: each setting's bad values
BAD: dict[str, dict[str, list[str]]] = {
    "one of: llama, falcon, starcoder, mpt, gpt2, gpt-neox, gguf, echo": {"model_type": ["bloom"]},
    "auto, or a whole number from 1 to 1024": {"workers": ["0", "1025", "many", "1.5"]},
    "auto, or a whole number from 0 to 256": {"parked": ["-1", "257"]},
    "auto, or a whole number from 1 to 256": {"threads": ["-1", "257"]},
    "one of: auto, llamacpp, ctransformers": {"engine": ["vllm"]},
    "auto, or a whole number from 1 to 64": {"slots": ["0", "65"]},
    f"auto, or {SIZE}": {"prefix_cache": ["-1", "some"]},
    "a whole number from 0 to 65535": {"port": ["-1", "65536", "http"]},
    "a whole number from 8 to 1048576": {"context_length": ["7", "1048577", "auto"]},
    "a whole number from 0 to 1000000": {"max_queue": ["-1", "1000001"]},
    "one of: debug, info, warning, error": {"log_level": ["loud"]},
    "one of: console, json": {"log_format": ["xml"]},
    "1 or 0": {"exact": ["3"], "log_prompts": ["2"], "otel": ["yes!"]},
    "one of: f16, q8_0": {"cache_type": ["f32"]},
    "a whole number from 1024 to 1073741824": {"max_body_bytes": ["1023", "2M"]},
    "a whole number from 1024 to 16777216": {"max_header_bytes": ["1023"]},
    "auto, or a whole number from 1 to 1000000": {"max_connections": ["0"]},
    f"auto, or {SECONDS}": {"stall_timeout": ["-1"]},
    SECONDS: {
        "drain_timeout": ["-0.1", "86401", "nan", "inf"],
        **{name: ["-0.1"] for name in OTHER_SECONDS},
    },
    "a whole number from 0 to 2147483648": {
        name: ["-1"] for name in TABLE if name.startswith("key_")
    },
    SIZE: {
        "max_worker_memory": ["-1", "1.5G", "2 giga"],
        "min_free_memory": ["G", "\u0663", "1gk"],
    },
    ORIGINS: {"cors_origins": ["https://a.org/", "*, a.org"]},
    HOSTS: {"allowed_hosts": ["https://a.org", "."]},
    "a number of milliseconds from 0 to 60000": {"echo_delay_ms": ["soon", "60001"]},
}  # fmt: skip
BAD_VALUES = [
    (name, text, allowed)
    for allowed, settings in BAD.items()
    for name, texts in settings.items()
    for text in texts
]


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def with_default(**values: Any) -> dict[str, Any]:
    return {**{name: row[0] for name, row in TABLE.items()}, **values}


def test_these_are_all_settings_and_their_defaults() -> None:
    assert [field.name for field in dataclasses.fields(Settings)] == list(TABLE)
    free_text = {name for name, row in TABLE.items() if len(row) == 3}
    assert {name for name, _, _ in BAD_VALUES} == set(TABLE) - free_text
    assert dataclasses.asdict(Settings.load([], {})) == with_default()


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_option_and_variable(name: str, text: str, value: Any) -> None:
    expected = with_default(**{name: value})
    for arguments, environment in (
        ([option(name), text], {}),
        ([f"{option(name)}={text}"], {name.upper(): TABLE[name][1]}),  # the option wins
        ([], {name.upper(): text, "PATH": "/bin"}),
    ):
        assert dataclasses.asdict(Settings.load(arguments, environment)) == expected
    # Neither of these is a setting.
    assert Settings.load([], {name.upper(): "", name: text}) == Settings()


@pytest.mark.parametrize(("name", "text", "allowed"), BAD_VALUES)
def test_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    for source, arguments, environment in (
        (option(name), [f"{option(name)}={text}"], {}),
        (name.upper(), [], {name.upper(): text}),
    ):
        with pytest.raises(UsageError) as caught:
            Settings.load(arguments, environment)
        assert str(caught.value) == f"{source}={text!r} is not allowed; it must be {allowed}"


@pytest.mark.parametrize("arguments", [["--work", "3"], ["--worker", "3"], ["3"], ["--port"]])
def test_unknown_option(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.load(arguments, {})
    assert caught.value.code == 2
    assert "usage: ggml-fastapi" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.load(["--help"], {})
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(option(name) in shown for name in TABLE)
    assert "default: 8000" in shown and "default: 256M" in shown


@pytest.mark.parametrize(
    ("name", "text", "means"),
    [
        ("cors_origins", "https://example.org:443", ("https://example.org",)),
        ("cors_origins", "http://[::1]:80", ("http://[::1]",)),
        ("cors_origins", "https://example.org:80", ("https://example.org:80",)),
        ("cors_origins", "vscode-webview://a:443", ("vscode-webview://a:443",)),
        ("allowed_hosts", "a.example.org., *.B.com.", ("a.example.org", "*.b.com")),
    ],
)
def test_names_become_what_browsers_send(name: str, text: str, means: tuple[str, ...]) -> None:
    assert getattr(Settings.load([], {name.upper(): text}), name) == means
