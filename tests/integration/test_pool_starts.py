"""How workers are started, and what is learned of how long that takes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import multiprocess
import pytest

from gateway.pool import starting
from gateway.pool.base import PoolStatus
from gateway.pool.death import Death
from gateway.pool.handle import WorkerHandle
from gateway.pool.limits import Limits
from gateway.pool.local import LocalPool
from tests.integration import loads_slowly, targets
from tests.integration.pools import (
    PRELOAD,
    all_idle,
    ask,
    collect,
    kill,
    pids_of,
    ready,
    run,
    started,
    text_of,
    until,
)
from tests.serving import served_echo, wait_for_end
from worker.main import run_template

SLOWLY = ("tests.integration.loads_slowly",)
PREFIX = "You are a helpful assistant. " * 20


def socket_of(pool: LocalPool) -> Path:
    """Where the first template is reached."""
    address: Any = pool._template._first._forkserver_address
    return Path(address)


def is_replaced(status: PoolStatus) -> bool:
    """A worker has died, and all are there again."""
    return bool(status.totals.deaths) and all_idle(status)


async def answers(pool: LocalPool) -> bool:
    return text_of(await collect(pool.generate(ask("hello")))) == "hello"


def test_a_fork_that_waits_for_the_model_has_the_time_that_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "_LEAST_FORK_S", loads_slowly.LOAD_S / 2)
    monkeypatch.setattr(starting, "_TIMES_USUAL", 0)

    async def work() -> None:
        async with ready(preload=SLOWLY, limits=Limits(start_timeout_s=60)) as pool:
            learned_ms = pool._dispatcher.estimates.start_ms
            template = pool._template.pids[0]
            assert template is not None
            await kill(template)
            await kill(pids_of(pool)[0])
            status = await until(pool, is_replaced)
            assert status.totals.deaths == {"killed": 1}
            assert [worker.reason for worker in status.workers] == [None, None]
            # What was learned meanwhile is not how long a fork takes.
            assert pool._dispatcher.estimates.start_ms == learned_ms
            assert await answers(pool)

    run(work())


@pytest.mark.parametrize("lost", ["socket", "directory"])
def test_a_template_that_cannot_be_reached_is_replaced(lost: str) -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            first = pool._template.pids[0]
            assert first is not None
            path = socket_of(pool)
            if lost == "socket":
                path.unlink()
            else:
                shutil.rmtree(path.parent)
            await kill(pids_of(pool)[0])
            await until(pool, is_replaced)
            assert pool._template.pids[0] != first
            assert await asyncio.to_thread(wait_for_end, first)
            assert await answers(pool)

    run(work())


def test_a_pool_whose_template_cannot_be_reached_can_be_closed() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            socket_of(pool).unlink()
        assert pool._template._first._forkserver_address is None

    run(work())


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_stopped_template_with_a_prefix_does_not_take_the_first_with_it(
    is_noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_noticed:  # before a start from it has taken too long
        monkeypatch.setattr(starting.Starter, "look", lambda self: False)
        monkeypatch.setattr(starting, "_LEAST_FORK_S", 2.0)

    async def work() -> None:
        async with ready(
            workers=2, warm_prompts=lambda model: [(PREFIX,)], template_target=run_template
        ) as pool:
            await until(pool, lambda status: status.template.generation == 1 and all_idle(status))
            first, newest = pool._template.pids
            assert newest is not None
            victim = pids_of(pool)[0]
            os.kill(newest, signal.SIGSTOP)
            await kill(victim)
            status = await until(pool, is_replaced)
            assert status.totals.deaths == {"killed": 1}
            assert await answers(pool)
            assert pool._template.pids[0] == first
            assert await asyncio.to_thread(wait_for_end, newest)

    run(work())


def test_nobody_else_waits_for_the_end_of_a_worker() -> None:
    async def work() -> None:
        async with ready(
            workers=3, warm_prompts=lambda model: [(PREFIX,)], template_target=run_template
        ) as pool:
            await kill(pids_of(pool)[0], signal.SIGSEGV)
            await until(pool, is_replaced)
            assert multiprocess.active_children() == []

    run(work())


def test_a_worker_imports_nothing_that_its_template_could_have() -> None:
    async def work() -> None:
        preload = ("tests.integration.notes_modules", *PRELOAD)
        async with started(target=targets.tells_imports, workers=1, preload=preload) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason == "imported [], main is __main__"

    run(work())


def test_a_place_is_kept_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reap = WorkerHandle.reap
    mistakes = [RuntimeError("a mistake of ours")]

    def reap_badly(self: Any) -> tuple[int | None, Death]:
        ended = reap(self)
        if mistakes:
            raise mistakes.pop()
        return ended

    monkeypatch.setattr(WorkerHandle, "reap", reap_badly)

    async def work() -> None:
        async with ready(workers=1, delay_ms=100) as pool:
            answer = asyncio.ensure_future(collect(pool.generate(ask("hello"))))
            await until(pool, lambda status: status.running == 1)
            await kill(pids_of(pool)[0])
            assert text_of(await answer) == "hello"
            await until(pool, all_idle)

    run(work())
    assert "a mistake of ours" in caplog.text


def test_stopped_workers_end_with_their_gateway() -> None:
    with served_echo(workers=3) as server:
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone() == []


def test_a_hangup_before_there_is_a_server_ends_nothing() -> None:
    code = (
        "import signal, gateway.__main__ as root; status = root.main(['--no-such-setting']);"
        "signal.raise_signal(signal.SIGHUP); raise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 2, done.stderr
