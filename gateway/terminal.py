"""What the process was started with: standard files, and perhaps a terminal."""

import os
import sys


def open_standard_files() -> None:
    """Open those of the descriptors 0 to 2 that are closed on the null device.

    To be called before anything else is opened: it would get their numbers, and what is written to
    standard error would go into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def has_terminal() -> bool:
    """Whether there is a terminal that controls the process, and it is not gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True
