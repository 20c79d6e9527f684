"""The terminal that the server may have been started on."""

import os


def has_terminal() -> bool:
    """Whether there is a terminal that controls the process, and it is not gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True
