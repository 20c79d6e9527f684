"""The process that workers are forked from dies; those that live notice nothing of it."""

import asyncio
import gc
import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.messages import Delta
from tests.integration.pools import (
    LONG,
    all_idle,
    ask,
    collect,
    descriptors,
    kill,
    pids_of,
    ready,
    run,
    text_of,
    until,
)
from tests.serving import DEADLINE_S, Server, is_alive, served_echo, wait_for_end
from worker.main import run_template


def first_pid(pool: LocalPool) -> int:
    pid, _ = pool._template.pids
    assert pid is not None
    return pid


async def next_template(pool: LocalPool, other_than: int) -> int:
    """The process of the template that has taken the place of another."""
    while (pid := pool._template.pids[0]) is None or pid == other_than or not is_alive(pid):
        await asyncio.sleep(0.002)
    return pid


def test_the_next_template_loads_by_itself_while_workers_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ready(delay_ms=5) as pool:
            workers, template = pids_of(pool), first_pid(pool)
            async with aclosing(pool.generate(ask(LONG))) as stream:
                await anext(stream)
                os.kill(template, signal.SIGKILL)
                successor = await asyncio.wait_for(next_template(pool, template), DEADLINE_S)
                # Nobody asked for a worker.
                assert pids_of(pool) == workers
                assert isinstance(await anext(stream), Delta)
                assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
            await until(pool, all_idle)
            await kill(pids_of(pool)[0])
            await until(pool, all_idle)
            assert first_pid(pool) == successor
            assert text_of(await collect(pool.generate(ask("again")))) == "again"

    run(work())
    assert "by SIGKILL" in caplog.text


def test_a_template_that_dies_while_it_loads() -> None:
    async def work() -> None:
        async with ready(workers=2) as pool:
            before = pids_of(pool)
            dead = first_pid(pool)
            for _ in range(2):
                os.kill(dead, signal.SIGKILL)
                # That one has only begun to load.
                dead = await asyncio.wait_for(next_template(pool, dead), DEADLINE_S)
            assert pids_of(pool) == before
            # A worker that dies meanwhile waits for the model.
            await kill(before[0])
            await until(pool, all_idle, 60)
            assert text_of(await collect(pool.generate(ask("hello")))) == "hello"

    run(work())


def test_a_template_dies_together_with_all_its_workers() -> None:
    async def work() -> None:
        async with ready(workers=2) as pool:
            template, workers = first_pid(pool), pids_of(pool)
            for pid in (template, *workers):
                os.kill(pid, signal.SIGKILL)
            for pid in workers:
                assert await asyncio.to_thread(wait_for_end, pid)
            events = await collect(pool.generate(ask("hello")))
            assert text_of(events) == "hello"
            await until(pool, all_idle, 60)
            assert not set(pids_of(pool)) & set(workers)

    run(work())


def test_a_template_with_a_prefix_is_made_again_at_once() -> None:
    async def work() -> None:
        text = "You are a helpful assistant. " * 20
        async with ready(
            workers=1, warm_prompts=lambda model: [(text,)], template_target=run_template
        ) as pool:
            await until(pool, lambda status: status.template.generation == 1 and all_idle(status))
            pid = pool._template.pids[1]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            # No worker has died, and nobody has asked for anything.
            await until(pool, lambda status: status.template.generation == 2)

    run(work())


def test_a_template_with_a_prefix_outlives_the_first() -> None:
    async def work() -> None:
        text = "You are a helpful assistant. " * 20
        async with ready(
            workers=2, warm_prompts=lambda model: [(text,)], template_target=run_template
        ) as pool:
            await until(
                pool,
                lambda status: (
                    all_idle(status) and {each.generation for each in status.workers} == {1}
                ),
            )
            template, warm = pool._template.pids
            assert template is not None and warm is not None
            os.kill(template, signal.SIGKILL)
            await asyncio.wait_for(next_template(pool, template), DEADLINE_S)
            await kill(pids_of(pool)[0])
            status = await until(pool, all_idle)
            assert [each.generation for each in status.workers] == [1, 1]
            assert pool._template.pids[1] == warm
        assert await asyncio.to_thread(wait_for_end, warm)

    run(work())


def template_of(server: Server) -> int:
    """The process that the workers of a server are forked from."""
    (pid,) = {
        pid
        for pid in server.processes()
        if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    } - set(server.worker_pids())
    return pid


def test_a_server_goes_on_and_ends_well() -> None:
    with served_echo() as server:
        template, workers = template_of(server), server.worker_pids()
        os.kill(template, signal.SIGKILL)
        server.wait_for_output(rf"the template \(pid {template}\) died by SIGKILL", "stderr")
        assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert server.http.post("/v1/completions", json={"prompt": "y"}).json() == "y"
        server.wait_until_idle()
        assert not {template, *workers} & set(server.worker_pids())
        server.stop()
    assert "Traceback" not in server.stderr


def test_workers_of_a_dead_template_end_with_their_gateway() -> None:
    with served_echo() as server:
        template = template_of(server)
        os.kill(template, signal.SIGKILL)
        server.wait_for_output("another loads the model", "stderr")
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone(timeout=2) == []


def test_two_pools_live_side_by_side() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=1) as first:
            template = first_pid(first)
            async with ready(workers=2) as second:
                assert first_pid(second) != template
                for pool in (first, second):
                    await kill(pids_of(pool)[0])
                for pool in (first, second):
                    await until(pool, all_idle)
                    assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
                other = first_pid(second)
            assert await asyncio.to_thread(wait_for_end, other)
            assert is_alive(template)
            await kill(pids_of(first)[0])
            await until(first, all_idle)

    run(work())


def test_a_pool_that_loads_does_not_hold_up_another() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            loading = LocalPool(
                WorkerConfig("echo"),
                workers=1,
                max_queue=1,
                target=print,
                preparer=print,
                preload=("tests.integration.never_loads",),
            )
            starting = asyncio.create_task(loading.start())
            while loading._template.pids[0] is None:
                await asyncio.sleep(0.002)
            await kill(pids_of(pool)[0])
            await until(pool, all_idle)
            assert not starting.done()
            await asyncio.wait_for(loading.close(), DEADLINE_S)
            await starting

    run(work())


def test_dead_templates_leave_no_descriptors() -> None:
    async def work() -> None:
        async def once() -> None:
            async with ready(workers=1) as pool:
                template = first_pid(pool)
                os.kill(template, signal.SIGKILL)
                await asyncio.wait_for(next_template(pool, template), DEADLINE_S)

        await once()
        gc.collect()  # `multiprocess` keeps what it knows of a process that was not waited for
        before = descriptors()
        for _ in range(3):
            await once()
        gc.collect()
        assert descriptors() <= before

    run(work())
