"""Files appear whole, or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.atomic_file import atomic_file
from shared.errors import UsageError


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_gets_its_name_at_the_end(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "m.bin"
    target.write_bytes(b"old")
    with atomic_file(target, 3) as (output, temporary):
        output.write(b"new")
        output.flush()
        assert target.read_bytes() == b"old" and temporary.read_bytes() == b"new"
        assert temporary.parent == tmp_path
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UsageError("bad"), ZeroDivisionError()])
def test_nothing_is_left_of_a_failure(failure: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "m.bin"
    target.write_bytes(b"old")
    with pytest.raises(type(failure)) as caught, atomic_file(target, 3) as (output, _):
        output.write(b"new")
        raise failure
    assert caught.value is failure
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"old"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_nothing_is_left_when_the_disk_fails(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, failing, fail)
    target = tmp_path / "m.bin"
    with (
        pytest.raises(UsageError, match=r"m.bin: cannot be written: the disk is broken"),
        atomic_file(target, 3) as (output, _),
    ):
        output.write(b"new")
    assert list(tmp_path.iterdir()) == []


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=13))
    with atomic_file(tmp_path / "fits", 13):
        pass
    with (
        pytest.raises(UsageError, match="cannot be written: 14 bytes are needed, 13 are free"),
        atomic_file(tmp_path / "m.bin", 14),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == [tmp_path / "fits"]


def test_names(tmp_path: Path) -> None:
    longest = tmp_path / ("é" * 127)
    with atomic_file(longest, 0):
        pass
    assert list(tmp_path.iterdir()) == [longest]
    for target, said in (
        (tmp_path, "is a folder; name the file that is to be written"),
        (tmp_path / "none" / "m.bin", "cannot be written: No such file or directory"),
        (tmp_path / ("x" * 256), "File name too long"),
    ):
        with pytest.raises(UsageError, match=said), atomic_file(target, 0):
            pass
    assert list(tmp_path.iterdir()) == [longest]
