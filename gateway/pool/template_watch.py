"""Notices the death of a template at once, and has the next one load while workers serve."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable

from gateway.pool.fork_server import Pidfd
from gateway.pool.template import Template

logger = logging.getLogger(__name__)

# A template that dies sooner than this after it was started has died young: perhaps it cannot live.
_YOUNG_S = 30.0
_MAX_BACKOFF_S = 60.0


class TemplateWatch:
    """Watches the processes that workers are forked from.

    Workers live on when theirs dies, and nothing is forked before one of them does; so the time to
    load the model again is now.
    """

    def __init__(self, template: Template, on_prefix_lost: Callable[[], None]) -> None:
        """Prepare; nothing is watched.

        Args:
            template: the fork servers.
            on_prefix_lost: called when the newest that holds a prefix is dead.
        """
        self._template = template
        self._on_prefix_lost = on_prefix_lost
        self._watched: dict[int, Pidfd] = {}
        self._started_s = time.monotonic()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def look(self) -> None:
        """Watch the processes that there are now, on the running event loop, and no others."""
        if self._closing or not hasattr(os, "pidfd_open"):
            return
        pids = {pid for pid in self._template.pids if pid is not None}
        for pid in self._watched.keys() - pids:
            self._forget(pid)
        for pid in pids - self._watched.keys():
            with contextlib.suppress(ProcessLookupError):  # whoever wants a fork of it will notice
                self._watched[pid] = watched = Pidfd(pid)
                asyncio.get_running_loop().add_reader(watched.fileno(), self._on_end, pid)

    def begin_close(self) -> None:
        """Watch nothing more, and start nothing more."""
        self._closing = True
        for pid in list(self._watched):
            self._forget(pid)
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Wait for what is going on."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _forget(self, pid: int) -> None:
        watched = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(watched.fileno())
        watched.close()

    def _on_end(self, pid: int) -> None:
        first, newest = self._template.pids
        if pid == first:
            how = _how_it_ended(self._watched[pid])
            logger.error(
                "the template (pid %d) died%s; another loads the model, workers go on", pid, how
            )
        elif pid == newest:
            logger.error("the template with a prefix (pid %d) died; it is made again", pid)
        self._forget(pid)
        if pid == first and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._revive())
        elif pid == newest:
            self._on_prefix_lost()

    async def _revive(self) -> None:
        young = time.monotonic() - self._started_s < _YOUNG_S
        self._failures = self._failures + 1 if young else 0
        try:
            # The first death is answered at once.
            if self._failures > 1:
                await asyncio.sleep(min(_MAX_BACKOFF_S, 0.25 * 2 ** min(self._failures, 10)))
            self._started_s = time.monotonic()
            await asyncio.to_thread(self._template.ensure_running)
        except OSError as error:
            # Whoever wants a fork of it tries again, and reports what comes of that.
            logger.error("the template could not be started again: %s", error)
        finally:
            self._task = None
        self.look()


def _how_it_ended(process: Pidfd) -> str:
    """For the log: the signal or the exit status; empty if a start has taken note of it already."""
    try:
        ended = os.waitid(os.P_PIDFD, process.fileno(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return ""
    if ended is None:
        return ""
    if ended.si_code == os.CLD_EXITED:
        return f", exit status {ended.si_status}"
    return f" by {signal.Signals(ended.si_status).name}"
