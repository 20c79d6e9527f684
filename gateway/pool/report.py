"""What a pool says of itself at this moment."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.pool.base import PoolLoad, PoolStatus, State, ZygoteStatus
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.keeper import WorkerKeeper
from shared.messages import ModelInfo


def load_of(
    state: State, reason: str | None, model: ModelInfo | None, dispatcher: Dispatcher
) -> PoolLoad:
    """The part of the status that each request has to know; see `PoolLoad`."""
    scheduler = dispatcher.scheduler
    return PoolLoad(
        state,
        reason,
        model,
        idle=scheduler.startable,
        waiting=len(scheduler.waiting),
        max_queue=scheduler.max_queue,
        retry_after_s=dispatcher.retry_after(),
    )


def status_of(
    state: State,
    reason: str | None,
    model: ModelInfo | None,
    dispatcher: Dispatcher,
    keepers: Sequence[WorkerKeeper],
    zygote: ZygoteStatus,
) -> PoolStatus:
    """What the pool and each worker is doing; see `PoolStatus`."""
    scheduler = dispatcher.scheduler
    running = set(scheduler.running.values())
    return PoolStatus(
        state,
        reason,
        model,
        workers=tuple(
            keeper.status(
                keeper.worker_id in running, dispatcher.cached_tokens.get(keeper.worker_id, 0)
            )
            for keeper in keepers
        ),
        waiting=len(scheduler.waiting),
        max_queue=scheduler.max_queue,
        slots=scheduler.slots,
        zygote=zygote,
        totals=replace(dispatcher.totals, evictions=scheduler.evictions),
    )
