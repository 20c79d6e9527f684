"""How keys are written down, where they come from, and who gets in with one, and without."""

import hmac
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import keys
from gateway.auth.keys import (
    CHECK_INTERVAL_S,
    MAX_FILE_BYTES,
    OPEN_PATHS,
    ApiKeys,
    presented_keys,
)
from shared.errors import UsageError
from tests.unit.gateway.auth.asking import ALICE, KEYS, Asker, access
from tests.unit.gateway.fakes import error


class KeyFile:
    """A file of keys, and a clock that stands still unless it is moved."""

    def __init__(self, path: Path, content: str, admin_key: str | None = None) -> None:
        self.path = path
        self.now_s = 0.0
        self.write(content)
        self.keys = ApiKeys(f"@{path}", admin_key, lambda: self.now_s)

    def write(self, content: str) -> None:
        """Replace the file, as careful editors and Kubernetes do."""
        new = self.path.with_suffix(".new")
        new.write_text(content, "utf-8")
        new.replace(self.path)

    def wait(self, seconds: float = CHECK_INTERVAL_S) -> None:
        self.now_s += seconds

    def name_of(self, key: str) -> str | None:
        return self.keys.name_of([key.encode()])


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


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ([], []),
        ([(b"authorization", b"Bearer abc")], [b"abc"]),
        ([(b"authorization", b"bEARER   abc ")], [b"abc"]),
        ([(b"authorization", b"Basic abc")], []),
        ([(b"authorization", b"abc")], []),
        ([(b"authorization", b"Bearer")], [b""]),
        ([(b"x-api-key", b" abc ")], [b"abc"]),
        ([(b"x-api-key", b"plain"), (b"authorization", b"Bearer b")], [b"b", b"plain"]),
        ([(b"x-api-key", b"one"), (b"x-api-key", b"two")], [b"one"]),
        ([(b"authorization", b"Bearer \xff\xfe")], [b"\xff\xfe"]),
    ],
)
def test_presented_keys(headers: list[tuple[bytes, bytes]], presented: list[bytes]) -> None:
    assert presented_keys({"type": "http", "headers": headers}) == presented


def test_a_file(path: Path) -> None:
    content = "\ufeff# ours\r\n\r\n  alice:alices-key\r\n#b:commented-out\n"
    file = KeyFile(path, f"{content} # c:also-this\nplain-key")
    assert file.name_of("alices-key") == "alice"
    assert file.name_of("plain-key") == "key-2"
    assert file.name_of("commented-out") is file.name_of("also-this") is None


def test_a_file_is_read_again_when_it_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counting(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    monkeypatch.setattr(keys, "_text", counting)
    file = KeyFile(path, "first-key\n")
    file.wait()
    assert (file.name_of("first-key"), len(reads)) == ("key-1", 1), "it has not changed"
    file.write("other-key\n")
    file.wait(CHECK_INTERVAL_S / 2)
    assert file.name_of("first-key") == "key-1", "it is not yet looked at"
    file.wait(CHECK_INTERVAL_S / 2)
    assert (file.name_of("first-key"), file.name_of("other-key")) == (None, "key-1")
    os.utime(path, ns=(1, 1))
    file.wait()
    file.name_of("first-key")
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("content", "says", "n_valid"),
    [
        ("first-key\nsecret\n", "line 2: a key must have at least 8 characters", 1),
        ("# first-key\n", "there is no key", 0),
        ("", "there is no key", 0),
        (None, "No such file or directory", 0),
        ("x" * (MAX_FILE_BYTES + 1), f"a file of keys may have {MAX_FILE_BYTES} bytes", 0),
        ("first-key\nbob:the-admin-key\n", "line 2: ADMIN_KEY must not be one of API_KEYS", 1),
    ],
)
def test_a_file_that_goes_wrong_opens_nothing_but_by_its_right_lines(
    content: str | None, says: str, n_valid: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = KeyFile(path, "first-key\nrevoked-key\n", "the-admin-key")
    path.unlink()
    if content is not None:
        file.write(content)
    for _ in range(3):
        file.wait()
        assert (file.name_of("first-key") is not None) == bool(n_valid)
        assert file.name_of("revoked-key") is file.name_of("the-admin-key") is None
    (message,) = caplog.messages
    assert says in message and message.endswith(f"; valid API keys: {n_valid}")
    assert "secret" not in message and "the-admin-key" not in message
    caplog.clear()
    file.write("other-key\n")
    file.wait()
    assert (file.name_of("first-key"), file.name_of("other-key")) == (None, "key-1")
    assert caplog.messages == [f"1 API keys read from {path}"]


def test_what_is_no_file_of_keys_at_the_start(tmp_path: Path) -> None:
    pipe, binary, long = tmp_path / "pipe", tmp_path / "binary", tmp_path / "long"
    os.mkfifo(pipe)
    binary.write_bytes(b"\xff\xfe\x00")
    long.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    for path, says in (
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path, "this is not a regular file"),
        (pipe, "this is not a regular file"),
        (binary, "line 1: a key must be of visible ASCII characters"),
        (long, f"a file of keys may have {MAX_FILE_BYTES} bytes"),
    ):
        with pytest.raises(UsageError) as caught:
            ApiKeys(f"@{path}")
        assert str(caught.value).startswith(f"API_KEYS=@{path}: {says}")


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
def test_a_key_opens_everything(headers: dict[str, str], ask: Asker) -> None:
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/models", "/health", "/ready"):
        assert ask("GET", path, headers=headers).status_code == 200
    for path in ("/v1/completions", "/v1/chat/completions", "/v2/chat/completions"):
        assert ask("POST", path, headers=headers, json={}).status_code == 400
    assert ask.complete(**headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-secret"},
        {"authorization": "Bearer alice"},
        {"authorization": "alices-key"},
        {"authorization": "Bearer alices-key,bobs-secret"},
        {"x-api-key": "wrong-secret"},
        {"x-api-key": ""},
        {"x-key": "alices-key"},
        {"authorization": "Bearer"},
    ],
)
def test_a_wrong_key_opens_nothing_and_is_not_repeated(
    headers: dict[str, str], ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    n_before = len(ask.pool.requests)
    response = ask.complete(**headers)
    assert error(response) == (401, "invalid_api_key", None)
    assert len(ask.pool.requests) == n_before
    text = response.text + caplog.text + str(response.headers)
    for secret in ("alices-key", "bobs-secret", "wrong-secret"):
        assert secret not in text


def test_a_key_in_the_url_does_not_count(ask: Asker) -> None:
    assert ask("GET", "/v1/models?api_key=alices-key").status_code == 401


def test_strangers_are_told_only_whether_the_server_is_ready(ask: Asker) -> None:
    assert ask("GET", "/ready").json() == {"state": "ready"}
    assert "workers" in ask("GET", "/ready", headers=ALICE).json()
    assert "workers" in Asker(access())("GET", "/ready").json()


def test_the_name_of_the_key_is_logged_and_not_the_key(
    ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert ask("GET", "/v1/models", headers=ALICE).status_code == 200
    assert any("alice" in r.getMessage() for r in caplog.records if "access" in r.name)
    assert "alices-key" not in caplog.text
