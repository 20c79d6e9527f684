"""Ends a process whose parent dies while it is busy with something long."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_EVERY_S = 0.5


@contextmanager
def ends_with_parent() -> Iterator[None]:
    """Exit as soon as the parent is dead; there is no thread of it any more afterwards.

    The system's own signal for that comes when the thread ends that started the process.
    """
    parent, is_over = os.getppid(), threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            if os.getppid() != parent:
                os._exit(0)

    watching = threading.Thread(target=watch, name="ends-with-parent", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
