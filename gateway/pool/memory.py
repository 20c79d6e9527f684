"""Watches how much memory the workers take, and how much is left for all."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from gateway.machine import available_memory
from gateway.pool.death import Cause, Death
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.proc import private_bytes
from gateway.pool.process import WorkerProcess

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_INTERVAL_S = 1.0
# Without a bound nothing depends on what is measured.
_UNBOUNDED_INTERVAL_S = 10.0
# To measure takes the time to walk through all pages of a process: at most this share of a core.
_SHARE = 0.01


class MemoryWatch:
    """Measures workers that have run something since, and replaces those that take too much.

    Attributes:
        is_short: whether there is less free memory than there is to be.
    """

    def __init__(
        self,
        keepers: Sequence[WorkerKeeper],
        running: Mapping[str, int],
        *,
        most_bytes: int | None,
        least_free_bytes: int,
        free_bytes: Callable[[], int | None] = available_memory,
    ) -> None:
        """Prepare; nothing is measured.

        Args:
            keepers: of the workers.
            running: request id -> worker id; read now and then.
            most_bytes: private memory beyond which a worker is replaced; None for no bound.
            least_free_bytes: free memory that there is to be; 0 for no bound.
            free_bytes: measures it; None where it is not known.
        """
        self.is_short = False
        self._keepers = keepers
        self._running = running
        self._most_bytes = most_bytes
        self._least_free_bytes = least_free_bytes
        self._free_bytes = free_bytes
        self._next = 0
        self._due_s = 0.0
        self._measured: dict[int, tuple[WorkerProcess, int]] = {}

    async def run(self) -> None:
        """Measure until cancelled."""
        has_failed = False
        while True:
            try:
                await self._look()
            except Exception:
                # Nothing is refused for what is not known.
                self.is_short = False
                if not has_failed:
                    logger.exception("memory could not be measured; it is tried again and again")
                has_failed = True
            await asyncio.sleep(_INTERVAL_S)

    async def _look(self) -> None:
        if self._least_free_bytes:
            self._note_free(await asyncio.to_thread(self._free_bytes))
        now_s = time.monotonic()
        if now_s >= self._due_s:
            interval_s = _UNBOUNDED_INTERVAL_S if self._most_bytes is None else _INTERVAL_S
            took_s = await self._measure_some(interval_s)
            self._due_s = now_s + max(interval_s, took_s / _SHARE)

    def _note_free(self, free: int | None) -> None:
        was_short = self.is_short
        self.is_short = free is not None and free < self._least_free_bytes
        if self.is_short and not was_short:
            logger.warning(
                "%d MiB of memory are free, less than the %d MiB of MIN_FREE_MEMORY;"
                " nothing new is taken",
                (free or 0) // _MIB, self._least_free_bytes // _MIB,
            )  # fmt: skip
        elif was_short and not self.is_short:
            logger.warning("there is enough free memory again")

    async def _measure_some(self, interval_s: float) -> float:
        """Measure the workers in turn, as many as the time allows; the CPU seconds it took."""
        spent_s, running = 0.0, set(self._running.values())
        for _ in self._keepers:
            keeper = self._keepers[self._next % len(self._keepers)]
            self._next += 1
            handle = keeper.handle
            if handle is None or keeper.state != "ready":
                continue
            heard = handle.heard
            is_known = self._measured.get(keeper.worker_id) == (handle, heard)
            if is_known and keeper.worker_id not in running:
                continue
            took, cpu_s = await asyncio.to_thread(_measure, handle.pid)
            spent_s += cpu_s
            if keeper.handle is handle and took is not None:
                self._measured[keeper.worker_id] = handle, heard
                keeper.memory_bytes = took
                if self._most_bytes is not None and took > self._most_bytes:
                    _replace(handle, took, self._most_bytes)
            if spent_s > _SHARE * interval_s:
                break
        return spent_s


def _replace(handle: WorkerProcess, took: int, most_bytes: int) -> None:
    why = (
        f"took {took // _MIB} MiB of memory, more than the {most_bytes // _MIB} MiB of"
        " MAX_WORKER_MEMORY, and was ended"
    )
    handle.kill(Death(Cause.MEMORY, why))


def _measure(pid: int) -> tuple[int | None, float]:
    began_s = time.thread_time()
    took = private_bytes(pid)
    return took, time.thread_time() - began_s
