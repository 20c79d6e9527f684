"""Writes a planned file so that it appears under its name only when it is whole and sound."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from shared.errors import UsageError
from worker.convert.layout import Layout

Progress = Callable[[int], None]
"""Is told how many more bytes have been written."""


def write(
    layout: Layout, target: Path, check: Callable[[Path], object], progress: Progress
) -> None:
    """Write a file beside ``target``, check it, and give it its name.

    Args:
        layout: what to write.
        target: is replaced if it is there.
        check: raises if the file is not fit for use.
        progress: is called after each block.

    Raises:
        UsageError: the file cannot be written, or there is no room for it.
    """
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; name the file that is to be written")
    try:
        _check_room(layout, target)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as output:
            _write_parts(layout, output, progress)
            output.flush()
            os.fsync(output.fileno())
        check(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _cannot_write(target, error) from error
        raise


def _check_room(layout: Layout, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if layout.n_bytes > free:
        raise OSError(errno.ENOSPC, f"{layout.n_bytes:,} bytes are needed, {free:,} are free there")


def _write_parts(layout: Layout, output: BinaryIO, progress: Progress) -> None:
    for part in layout.parts:
        for chunk in [part] if isinstance(part, bytes) else part.chunks():
            progress(output.write(chunk))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(target: Path, error: OSError) -> UsageError:
    return UsageError(f"{target}: cannot be written: {error.strerror or error}")
