"""How keys are written down, where they come from, and who gets in with one, and without."""

import hmac
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.keys import MAX_FILE_BYTES, OPEN_PATHS, ApiKeys
from shared.errors import UsageError
from tests.unit.gateway.auth.asking import ALICE, COMPLETION, KEYS, Asker, access
from tests.unit.gateway.fakes import error


def replace(path: Path, content: str) -> None:
    """Replace the file in one step, as careful editors and Kubernetes do."""
    new = path.with_suffix(".new")
    new.write_text(content, "utf-8")
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_keys_have_the_names_that_they_are_given_or_their_place() -> None:
    ring = ApiKeys(" first-key ,, alice:alices:key,third-key, alice:alices-new-key,")
    for key, name in (
        ("first-key", "key-1"), ("alices:key", "alice"), ("third-key", "key-3"),
        ("alices-new-key", "alice"), ("", None), ("alice", None), ("alice:alices:key", None),
        ("first-ke", None), ("first-key ", None), ("FIRST-KEY", None),
    ):  # fmt: skip
        assert ring.name_of([key.encode()]) == name, key
    assert ring.name_of([]) is None
    # Of two keys either may be good, and the first counts first.
    assert ring.name_of([b"wrong", b"third-key"]) == "key-3"
    assert ring.name_of([b"alices:key", b"wrong"]) == "alice"
    assert ring.name_of([b"alices:key", b"third-key"]) == "alice"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([""], "there is no key"),
        (["good-key", "tiny"], "2: a key must have at least 8 characters"),
        (["name:"], "1: a key must be of visible ASCII characters"),
        (["with a space"], "1: a key must be of visible ASCII characters"),
        (["schlüssel-1"], "1: a key must be of visible ASCII characters"),
        (["a b:long-enough"], "1: the name before the colon"),
        ([":long-enough"], "1: the name before the colon"),
        (["a:same-key", "b:same-key"], "2: this key is there already, as a"),
    ],
)
def test_what_cannot_be_a_key_is_said_without_the_key(
    lines: list[str], says: str, path: Path
) -> None:
    path.write_text("\n".join(lines), "utf-8")
    for setting, source in ((",".join(lines), "API_KEYS: key "), (f"@{path}", f"{path}: line ")):
        with pytest.raises(UsageError) as caught:
            ApiKeys(setting)
        assert (source if says[0].isdigit() else ": ") + says in str(caught.value)
        for line in filter(None, lines):
            assert (line.partition(":")[2] or line) not in str(caught.value).replace(str(path), "")


def test_only_hashes_are_kept() -> None:
    assert "a-secret-key" not in repr(vars(ApiKeys("bob:a-secret-key")))


def test_every_key_is_compared_with_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def comparing(one: bytes, other: bytes, real: Any = hmac.compare_digest) -> bool:
        compared.append(one)
        assert len(one) == len(other)
        return bool(real(one, other))

    monkeypatch.setattr("gateway.auth.keys.hmac.compare_digest", comparing)
    ring = ApiKeys("first-key,other-key,third-key")
    assert ring.name_of([b"first-key", b"nothing"]) == "key-1"
    assert len(compared) == 6


def test_a_file(path: Path) -> None:
    content = (
        "\ufeff# ours\r\n\r\n  alice:alices-key\r\n#b:commented-out\n # c:also-this\nplain-key"
    )
    path.write_text(content, "utf-8")
    keys = ApiKeys(f"@{path}")
    for key, name in (
        (b"alices-key", "alice"), (b"plain-key", "key-2"), (b"commented-out", None),
        (b"also-this", None),
    ):  # fmt: skip
        assert keys.name_of([key]) == name


def test_a_file_is_read_when_it_has_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counting(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    monkeypatch.setattr("gateway.auth.keys._text", counting)
    path.write_text("first-key\n")
    keys = ApiKeys(f"@{path}")
    assert (keys.name_of([b"first-key"]), len(reads)) == ("key-1", 1)
    replace(path, "other-key\n")
    assert (keys.name_of([b"first-key"]), keys.name_of([b"other-key"])) == (None, "key-1")
    os.utime(path, ns=(1, 1))
    keys.name_of([b"first-key"])
    assert len(reads) == 3


TOO_LONG = "x" * (MAX_FILE_BYTES + 1)


@pytest.mark.parametrize(
    ("content", "says", "n_valid"),
    [
        ("first-key\nsecret\n", "line 2: a key must have at least 8 characters", 1),
        ("# first-key\n", "there is no key", 0),
        ("", "there is no key", 0),
        (None, "No such file or directory", 0),
        (TOO_LONG, f"a file of keys may have {MAX_FILE_BYTES} bytes", 0),
        ("first-key\nbob:the-admin-key\n", "line 2: ADMIN_KEY must not be one of API_KEYS", 1),
    ],
    ids=range(6),
)
def test_a_file_that_goes_wrong_opens_nothing_but_by_its_right_lines(
    content: str | None, says: str, n_valid: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path.write_text("first-key\nrevoked-key\n")
    keys = ApiKeys(f"@{path}", "the-admin-key")
    path.unlink()
    if content is not None:
        replace(path, content)
    with pytest.raises(UsageError) as caught:
        ApiKeys(f"@{path}", "the-admin-key")
    assert str(caught.value).startswith(f"API_KEYS=@{path}: {says}")
    for _ in range(3):
        assert (keys.name_of([b"first-key"]) is not None) == bool(n_valid)
        assert keys.name_of([b"revoked-key", b"the-admin-key"]) is None
    (message,) = caplog.messages
    assert says in message and message.endswith(f"; valid API keys: {n_valid}")
    assert "secret" not in message and "the-admin-key" not in message
    caplog.clear()
    replace(path, "other-key\n")
    assert (keys.name_of([b"first-key"]), keys.name_of([b"other-key"])) == (None, "key-1")
    assert caplog.messages == [f"1 API keys read from {path}"]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match=f"^API_KEYS=@{path}: this is not a regular file"):
            ApiKeys(f"@{path}")


@pytest.fixture(scope="module")
def ask() -> Asker:
    """A server with two keys."""
    return Asker(access(API_KEYS=KEYS))


def paths() -> list[str]:
    """Every path that the application serves, and some that it does not."""
    described = Asker(access())("GET", "/openapi.json").json()["paths"]
    assert {"/v1/models/{model_id}", "/metrics", *OPEN_PATHS} <= set(described)
    known = [*described, "/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"]
    beside = ["//health", "/health/", "/health/x", "/Ready", "/ready%2f..", "/nothing", "/admin"]
    return [path.replace("{model_id}", "org/model") for path in known] + beside


def test_a_stranger_gets_nothing_but_what_is_open(ask: Asker) -> None:
    for path in paths():
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
            response = ask(method, path)
            if path in OPEN_PATHS or path.startswith("/admin/"):
                assert response.status_code != 401
                continue
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            if method != "HEAD":
                assert error(response) == (401, "invalid_api_key", None)
    assert ask("OPTIONS", "/v1/completions").status_code == 405
    assert ask.pool.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (ALICE, 200),
        ({"authorization": "bEARER   alices-key "}, 200),
        ({"x-api-key": " alices-key "}, 200),
        ({"x-api-key": "alices-key", "authorization": "Bearer none"}, 200),
        ({"x-api-key": "none", "authorization": "Bearer bobs-secret"}, 200),
        ({"x-api-key": "alices-key", "authorization": "Basic abc"}, 200),
        ({}, 401),
        ({"authorization": "Bearer wrong-secret"}, 401),
        ({"authorization": "Bearer \xff"}, 401),
        ({"authorization": "Bearer alice"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "alices-key"}, 401),
        ({"authorization": "Bearer alices-key,bobs-secret"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-key": "alices-key"}, 401),
    ],
)
def test_who_gets_in_and_no_key_is_repeated(
    headers: dict[str, str], status: int, ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    response = ask("POST", "/v1/completions", headers=sent, json=COMPLETION)
    assert response.status_code == status
    if status == 401:
        assert error(response) == (401, "invalid_api_key", None)
    else:
        assert "key=alice" in caplog.text or "key=bob" in caplog.text
    text = response.text + caplog.text + str(response.headers)
    for secret in ("alices-key", "bobs-secret", "wrong-secret"):
        assert secret not in text


def test_what_a_key_opens_and_a_stranger_sees(ask: Asker) -> None:
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/models", "/health", "/ready"):
        assert ask("GET", path, headers=ALICE).status_code == 200
    assert ask("GET", "/v1/models?api_key=alices-key").status_code == 401
    assert ask("GET", "/ready").json() == {"state": "ready"}
    assert "workers" in ask("GET", "/ready", headers=ALICE).json()
    assert "workers" in Asker(access())("GET", "/ready").json()
