"""Writes files that appear under their names only when they are whole."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shared.errors import UsageError

_PREFIX_LETTERS = 50
"""Of the target's name in the temporary one, which must not get longer than names may be."""


@contextmanager
def atomic_file(target: Path, n_bytes: int) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside ``target``, which takes its name when the block is left.

    If the block raises, an interruption included, nothing is left of the file, and ``target`` is as
    it was before.

    Yields the file, and where it is until then. There has to be room for ``n_bytes``.

    Raises:
        UsageError: the file cannot be written, or there is no room for it.
    """
    name = f".{target.name[:_PREFIX_LETTERS]}.{secrets.token_hex(4)}"
    temporary = target.parent / name
    try:
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; name the file that is to be written")
        _check_room(target.parent, n_bytes)
        try:
            # Made as any new file is, so that its permissions are what the umask leaves.
            with temporary.open("xb") as output:
                yield output, temporary
                output.flush()
                os.fsync(output.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror or error}") from error


def _check_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(errno.ENOSPC, f"{n_bytes:,} bytes are needed, {free:,} are free there")
