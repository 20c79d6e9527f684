"""Keys in the settings, and in a file that changes while the server runs."""

import logging
import os
from pathlib import Path

import pytest

from gateway.auth.key_file import CHECK_INTERVAL_S, MAX_FILE_BYTES, KeyFile, KeySource, key_source
from shared.errors import UsageError

NEXT = 2 * CHECK_INTERVAL_S


def write(path: Path, text: str) -> None:
    """Replace the file, as careful editors and Kubernetes do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def name_at(source: KeySource, now_s: float, key: bytes) -> str | None:
    return source.current(now_s).name_of([key])


def test_keys_in_the_settings() -> None:
    source = key_source(" alice:alices-key ,, plain-key,", 0)
    assert name_at(source, 0, b"alices-key") == "alice"
    assert name_at(source, 0, b"plain-key") == "key-2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (",", "API_KEYS: there is no key"),
        ("good-key-1,tiny", "API_KEYS: key 2: a key must have at least 8 characters"),
        ("same-key,b:same-key", "API_KEYS: key 2: this key is there already, as key-1"),
    ],
)
def test_keys_in_the_settings_that_cannot_be_used(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        key_source(text, 0)
    assert str(caught.value) == says


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(
        "\ufeff# ours\r\n\r\n  alice:alices-key\r\n#b:commented-out\nplain-key\n", "utf-8"
    )
    source = key_source(f"@{path}", 0)
    assert name_at(source, 0, b"alices-key") == "alice"
    assert name_at(source, 0, b"plain-key") == "key-2"
    assert name_at(source, 0, b"commented-out") is None
    assert len(source.current(0)) == 2


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write(path, "first-key\n")
    source = KeyFile(path, 0)
    write(path, "other-key\n")
    assert name_at(source, CHECK_INTERVAL_S / 2, b"first-key") == "key-1"
    assert name_at(source, CHECK_INTERVAL_S, b"first-key") is None
    assert name_at(source, CHECK_INTERVAL_S, b"other-key") == "key-1"


def test_a_file_that_has_not_changed_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    write(path, "first-key\n")
    source = KeyFile(path, 0)
    before = source.current(0)
    assert source.current(NEXT) is before
    os.utime(path, ns=(1, 1))
    assert source.current(2 * NEXT) is not before


def test_a_file_that_goes_wrong_leaves_the_last_good_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys"
    write(path, "first-key\n")
    source = KeyFile(path, 0)
    now_s = 0.0

    def after(change: str | None) -> list[str]:
        """What the log says after a change to the file and three looks at it."""
        nonlocal now_s
        caplog.clear()
        path.unlink(missing_ok=True)
        if change is not None:
            write(path, change)
        for _ in range(3):
            now_s += NEXT
            source.current(now_s)
        return [record.getMessage() for record in caplog.records]

    (message,) = after("first-key\nsecret\n")
    assert message.endswith("line 2: a key must have at least 8 characters")
    assert "secret" not in message
    assert name_at(source, now_s, b"first-key") == "key-1"
    (message,) = after(None)
    assert message.endswith(": No such file or directory")
    (message,) = after("")
    assert message.endswith(": there is no key")
    assert name_at(source, now_s, b"first-key") == "key-1"
    (message,) = after("other-key\n")
    assert message == f"1 API keys read from {path}"
    assert name_at(source, now_s, b"first-key") is None
    assert after("other-key\nthird-key\n") == [f"2 API keys read from {path}"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "there is no key"),
        (b"# only a comment\n", "there is no key"),
        (b"\xff\xfe\x00", "this is not a text file"),
        (b"x" * (MAX_FILE_BYTES + 1), f"a file of keys may have {MAX_FILE_BYTES} bytes"),
        (b"good-key-1\nname:\n", "line 2: a key must be of visible ASCII characters"),
    ],
)
def test_a_file_that_is_wrong_at_the_start(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        key_source(f"@{path}", 0)
    assert str(caught.value).startswith(f"API_KEYS=@{path}: {says}")


def test_what_is_no_file_at_the_start(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, says in (
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path, "this is not a regular file"),
        (pipe, "this is not a regular file"),
    ):
        with pytest.raises(UsageError) as caught:
            key_source(f"@{path}", 0)
        assert str(caught.value) == f"API_KEYS=@{path}: {says}"


def test_the_key_for_admin_is_none_of_the_file_whenever_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    write(path, "first-key\n")
    source = key_source(f"@{path}", 0, "the-admin-key")
    write(path, "other-key\nbob:the-admin-key\n")
    assert name_at(source, NEXT, b"the-admin-key") is None
    assert name_at(source, NEXT, b"first-key") == "key-1"
    (record,) = caplog.records
    assert "ADMIN_KEY must not be one of the keys" in record.getMessage()
    assert "the-admin-key" not in record.getMessage()
    with pytest.raises(UsageError, match="ADMIN_KEY must not be one of the keys"):
        key_source(f"@{path}", 0, "the-admin-key")
