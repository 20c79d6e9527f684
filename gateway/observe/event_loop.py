"""Watches the event loop: how late it is, and where it stands when it does not run at all."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
#: A loop that has not run for so long answers nobody, not even `/health`.
_STUCK_S = 3.0


class LoopWatch:
    """Looks at the event loop that it is made in; its thread does not depend on that loop."""

    def __init__(self, note_lag_s: Callable[[float], None]) -> None:
        """``note_lag_s`` is told once a second how many seconds late the loop is."""
        self._note_lag_s = note_lag_s
        self._loop_thread = threading.get_ident()
        self._ran_s = time.monotonic()
        self._ended = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        threading.Thread(target=self._look, name="loop watch", daemon=True).start()
        try:
            while True:
                due_s = time.monotonic() + _EVERY_S
                await asyncio.sleep(_EVERY_S)
                self._ran_s = time.monotonic()
                self._note_lag_s(max(0.0, self._ran_s - due_s))
        finally:
            self._ended.set()

    def _look(self) -> None:
        is_logged, looked_s = False, time.monotonic()
        while not self._ended.wait(_EVERY_S):
            # Where this thread is late, too, the whole process was stopped or starved.
            before_s, looked_s = looked_s, time.monotonic()
            stuck_s = looked_s - self._ran_s
            if stuck_s < _STUCK_S:
                is_logged = False
            elif not is_logged and looked_s - before_s < _STUCK_S:
                is_logged = True
                stack = traceback.format_stack(sys._current_frames().get(self._loop_thread))
                logger.error("the event loop has not run for %.1f s; it is in\n%s", stuck_s,
                             "".join(stack))  # fmt: skip
