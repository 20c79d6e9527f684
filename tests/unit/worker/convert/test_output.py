"""Files appear whole, or not at all."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.errors import UsageError
from worker.convert.layout import Layout
from worker.convert.output import write
from worker.convert.tensors import Tensor


def chunks(*items: bytes | BaseException) -> Iterator[bytes]:
    for item in items:
        if isinstance(item, BaseException):
            raise item
        yield item


def layout(*items: bytes | BaseException) -> Layout:
    return Layout("x", [b"header", Tensor("t", (2,), 0, lambda: chunks(*items))])


def accept(path: Path) -> None:
    assert path.is_file()


def silent(n_bytes: int) -> None:
    pass


def test_a_file_is_written_and_checked_before_it_has_its_name(tmp_path: Path) -> None:
    target = tmp_path / "m.bin"
    seen: list[tuple[Path, bytes]] = []
    steps: list[int] = []

    def check(path: Path) -> None:
        assert not target.exists()
        seen.append((path.parent, path.read_bytes()))

    write(layout(b"1234", b"5678"), target, check, steps.append)
    assert target.read_bytes() == b"header12345678"
    assert seen == [(tmp_path, b"header12345678")]
    assert steps == [6, 4, 4]
    assert list(tmp_path.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UsageError("bad"), ZeroDivisionError()])
@pytest.mark.parametrize("is_late", [False, True])
def test_nothing_is_left_of_a_failure(
    failure: BaseException, is_late: bool, tmp_path: Path
) -> None:
    target = tmp_path / "m.bin"
    target.write_bytes(b"old")

    def check(path: Path) -> None:
        raise failure

    written = layout(b"1234") if is_late else layout(b"1234", failure)
    with pytest.raises(type(failure)):
        write(written, target, check if is_late else accept, silent)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_a_full_disk(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UsageError, match=r"m.bin: cannot be written: No space left on device"):
        write(layout(b"1234", full), tmp_path / "m.bin", accept, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_will_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(13))
    with pytest.raises(UsageError, match="14 bytes are needed, 13 are free there"):
        write(layout(ZeroDivisionError()), tmp_path / "m.bin", accept, silent)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; name the file that is to be written"):
        write(layout(), tmp_path, accept, silent)
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write(layout(), tmp_path / "none" / "m.bin", accept, silent)
