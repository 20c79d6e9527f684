"""Real pools for tests: started, watched, and gone at the end."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from gateway.pool.base import PoolStatus
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.messages import Delta, Detokenize, Event, Failed, Finished, Generate, Prefilled
from shared.sampling import SamplingParams
from shared.times import Times
from tests.serving import DEADLINE_S, START_S, wait_for_end
from worker.main import run_preparer, run_worker

LIMIT_S = 90.0
LONG = "x" * 4000
"""A prompt that an echo worker with a delay answers for longer than any test runs."""

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a test's coroutine; one that hangs fails."""
    return asyncio.run(asyncio.wait_for(work, LIMIT_S))


@asynccontextmanager
async def started(
    *,
    workers: int = 2,
    max_queue: int = 16,
    delay_ms: float = 0.0,
    target: Callable[..., None] = run_worker,
    config: WorkerConfig | None = None,
    **options: Any,
) -> AsyncIterator[LocalPool]:
    """A pool whose first worker is ready, or that has failed; checks that it leaves nothing."""
    pool = LocalPool(
        config or WorkerConfig("echo", echo_delay_ms=delay_ms),
        workers=workers,
        max_queue=max_queue,
        target=target,
        preparer=run_preparer,
        **options,
    )
    try:
        await asyncio.wait_for(pool.start(), START_S)
        yield pool
    finally:
        pids = pids_of(pool)
        await asyncio.wait_for(pool.close(), DEADLINE_S)
        # One that was killed closes its pipe a moment before it is gone.
        assert [pid for pid in pids if not await asyncio.to_thread(wait_for_end, pid)] == []
        assert pids_of(pool) == []


@asynccontextmanager
async def ready(**options: Any) -> AsyncIterator[LocalPool]:
    """A pool all of whose workers are idle."""
    async with started(**options) as pool:
        await until(pool, all_idle)
        await pool.prepare(Detokenize("ready", (1,)))  # the preparer is there, too
        yield pool


def pids_of(pool: LocalPool) -> list[int]:
    """The workers' processes."""
    return [worker.pid for worker in pool.status().workers if worker.pid is not None]


def all_idle(status: PoolStatus) -> bool:
    """Whether every worker is free."""
    return all(worker.state == "idle" for worker in status.workers) and status.waiting == 0


async def until(
    pool: LocalPool, condition: Callable[[PoolStatus], bool], timeout: float = DEADLINE_S
) -> PoolStatus:
    """Look at the pool's status until it meets a condition."""
    deadline = time.monotonic() + timeout
    while not condition(status := pool.status()):
        assert time.monotonic() < deadline, f"still {status}"
        await asyncio.sleep(0.002)
    return status


async def running_pid(pool: LocalPool, other_than: int | None = None) -> int:
    """The process of the one worker that is running."""

    def pids(status: PoolStatus) -> list[int]:
        running = [worker.pid for worker in status.workers if worker.state == "running"]
        return [pid for pid in running if pid is not None and pid != other_than]

    (pid,) = pids(await until(pool, lambda status: len(pids(status)) == 1))
    return pid


def heard(pool: LocalPool) -> int:
    """How often a worker has sent something."""
    return sum(each.process.heard for each in pool._keepers if each.process is not None)


def times_of(events: Sequence[Event]) -> Times:
    """What a generation's terminal event tells of it."""
    last = events[-1]
    assert isinstance(last, Finished | Failed) and last.times is not None
    return last.times


async def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill a process; returns when it is dead."""
    os.kill(pid, number)
    assert await asyncio.to_thread(wait_for_end, pid)


_numbers = iter(range(1_000_000_000))


def ask(prompt: str, **more: Any) -> Generate:
    """A generation with a fresh id."""
    more.setdefault("sampling", SamplingParams(temperature=0))
    return Generate(f"test-{next(_numbers)}", tuple(prompt.encode()), **more)


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    """All events of a generation; checks that they are in order."""
    async with aclosing(events):
        got = [event async for event in events]
    check_order(got)
    return got


def check_order(events: Sequence[Event]) -> None:
    """Check the order of a generation: ``Prefilled, Delta*, terminal``, or `Failed` alone."""
    *before, last = events
    assert isinstance(last, Finished | Failed), events
    if isinstance(last, Finished):
        assert before, events
    if before:
        assert isinstance(before[0], Prefilled), events
    assert all(isinstance(event, Delta) for event in before[1:]), events
    assert len({event.request_id for event in events}) == 1


def text_of(events: Sequence[Event]) -> str:
    """The text of a generation."""
    return "".join(event.text for event in events if isinstance(event, Delta))


def failure_of(events: Sequence[Event]) -> str | None:
    """The code that a generation failed with."""
    last = events[-1]
    return last.code if isinstance(last, Failed) else None


def descriptors() -> Counter[str]:
    """What kinds of open files this process has, and how many of each."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists the folder
            found[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return found
