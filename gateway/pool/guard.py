"""Keeps a pool within its limits: what it takes, and the workers that run it."""

import asyncio
import math
import time
from collections.abc import Sequence

from gateway.pool.base import GenerationRecord, PoolRefused, State, Terms
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.keeper import WorkerKeeper
from gateway.pool.limits import Limits
from gateway.pool.mailbox import Mailbox
from gateway.pool.memory import MemoryWatch
from gateway.pool.process import WorkerProcess
from gateway.pool.rescue import KILLS_WORKERS
from gateway.pool.watchdog import Watchdog
from gateway.pool.zygote import Zygote
from shared.errors import ErrorCode
from shared.messages import Generate

_MEMORY_RETRY_S = 5


class Guard:
    """Watches the workers, and decides whether a pool that is ready takes a generation.

    What has been taken is never given up.
    """

    def __init__(
        self,
        keepers: Sequence[WorkerKeeper],
        dispatcher: Dispatcher,
        zygote: Zygote,
        limits: Limits,
    ) -> None:
        """Prepare; nothing is watched before `begin`.

        Args:
            keepers: of the workers.
            dispatcher: which has the backlog.
            zygote: what they are forked from.
            limits: the bounds.
        """
        self._keepers = keepers
        self._dispatcher = dispatcher
        self._limits = limits
        scheduler = dispatcher.scheduler
        running = scheduler.running
        self._memory = MemoryWatch(
            keepers,
            running,
            most_bytes=limits.max_worker_memory,
            least_free_bytes=limits.min_free_memory,
        )
        self._watchdog = Watchdog(
            self._handles,
            running,
            self._stall_s,
            lambda: zygote.look() or bool(scheduler.waiting),
        )
        self._measuring: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to watch, on the running event loop."""
        self._watchdog.begin()
        self._measuring = asyncio.create_task(self._memory.run())

    def end(self) -> None:
        """Watch no more; `close` is to follow."""
        self._watchdog.end()
        if self._measuring is not None:
            self._measuring.cancel()

    async def close(self) -> None:
        """Wait for what is going on."""
        if self._measuring is not None:
            await asyncio.gather(self._measuring, return_exceptions=True)

    def _handles(self) -> dict[int, WorkerProcess]:
        return {
            keeper.worker_id: keeper.handle
            for keeper in self._keepers
            if keeper.handle is not None and keeper.state == "ready"
        }

    def _stall_s(self) -> float:
        stall_s = self._limits.stall_timeout_s
        return self._dispatcher.stall_s if stall_s is None else stall_s

    @property
    def obstacle(self) -> str | None:
        """Why nothing at all is taken at present, if so."""
        return "there is less free memory than MIN_FREE_MEMORY" if self._memory.is_short else None

    def take(self, request: Generate, terms: Terms, record: GenerationRecord) -> Mailbox:
        """Have a generation run.

        Returns:
            Where its events will come; see `Dispatcher.submit`.

        Raises:
            PoolRefused: it is not taken.
        """
        dispatcher = self._dispatcher
        if dispatcher.quarantine.holds(request, time.monotonic()):
            raise PoolRefused(ErrorCode.WORKER_CRASHED, KILLS_WORKERS, 60)
        if self._memory.is_short:
            raise PoolRefused(
                ErrorCode.INSUFFICIENT_MEMORY,
                "the server is short of memory; try again later",
                _MEMORY_RETRY_S,
            )
        most_s = self._limits.max_queue_seconds
        if most_s and (wait_s := dispatcher.expected_wait_s()) > most_s:
            raise PoolRefused(
                ErrorCode.QUEUE_FULL,
                f"this request would have to wait for about {math.ceil(wait_s)} s, and at most"
                f" {most_s:g} s are allowed; try again later",
                max(1, min(60, math.ceil(wait_s - most_s))),
            )
        events = dispatcher.submit(request, terms, record)
        if events is None:
            scheduler = dispatcher.scheduler
            raise PoolRefused(
                ErrorCode.QUEUE_FULL,
                f"all workers are busy and {len(scheduler.waiting)} requests wait already,"
                f" of at most {scheduler.max_queue}; try again later",
                dispatcher.retry_after(),
            )
        self._watchdog.hurry()
        return events


def check_state(state: State, reason: str | None) -> None:
    """Let nothing pass to a pool that is not ready.

    Args:
        state: of the pool.
        reason: why it has failed, if so.

    Raises:
        PoolRefused: it is not ready.
    """
    match state:
        case "closing":
            raise PoolRefused(ErrorCode.SHUTTING_DOWN, "the server is shutting down", 5)
        case "failed":
            raise PoolRefused(
                ErrorCode.MODEL_UNAVAILABLE, f"no worker could be started: {reason}", 30
            )
        case "starting":
            raise PoolRefused(ErrorCode.MODEL_LOADING, "the model is being loaded", 2)
