"""Writes a planned file so that it appears under its name only when it is whole and sound."""

from collections.abc import Callable
from pathlib import Path

from shared.atomic_file import atomic_file
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
    with atomic_file(target, layout.n_bytes) as (output, temporary):
        for part in layout.parts:
            for chunk in [part] if isinstance(part, bytes) else part.chunks():
                progress(output.write(chunk))
        output.flush()
        check(temporary)
