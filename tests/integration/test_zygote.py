"""The zygote: what its forks have from it, and that workers notice nothing of its death."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.base import PoolRefused, PoolStatus
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Chat, Delta, Event, Prefilled, Prepare, Prepared
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
    started,
    text_of,
    until,
)
from tests.serving import DEADLINE_S, ROOT, Server, is_alive, served_echo, wait_for_end
from worker.main import run_preparer, run_worker

SYSTEM = "You are a helpful assistant. " * 20
PLAIN = WorkerConfig("echo", chat_template="plain")
BEGIN = f"system: {SYSTEM}\nuser: "
"""Of the prompts of chats in that format."""


def cached(events: Sequence[Event]) -> int:
    assert isinstance(events[0], Prefilled)
    return events[0].cached_tokens


def pid_of(pool: LocalPool) -> int:
    pid = pool.status().zygote.pid
    assert pid is not None
    return pid


async def next_zygote(pool: LocalPool, other_than: int) -> int:
    """The process that has taken the place of another."""
    while (pid := pool.status().zygote.pid) is None or pid == other_than or not is_alive(pid):
        await asyncio.sleep(0.002)
    return pid


def test_the_next_zygote_loads_by_itself_while_workers_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ready(delay_ms=5) as pool:
            workers, zygote = pids_of(pool), pid_of(pool)
            async with aclosing(pool.generate(ask(LONG))) as stream:
                await anext(stream)
                os.kill(zygote, signal.SIGKILL)
                successor = await asyncio.wait_for(next_zygote(pool, zygote), DEADLINE_S)
                # Nobody asked for a worker.
                assert pids_of(pool) == workers
                assert isinstance(await anext(stream), Delta)
                assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
            await until(pool, all_idle)
            await kill(pids_of(pool)[0])
            await until(pool, all_idle)
            assert pid_of(pool) == successor
            assert text_of(await collect(pool.generate(ask("again")))) == "again"

    run(work())
    assert "killed by SIGKILL" in caplog.text


def test_a_zygote_that_dies_while_it_loads() -> None:
    async def work() -> None:
        async with ready(workers=2) as pool:
            before = pids_of(pool)
            dead = pid_of(pool)
            for _ in range(2):
                os.kill(dead, signal.SIGKILL)
                # That one has only begun to load.
                dead = await asyncio.wait_for(next_zygote(pool, dead), DEADLINE_S)
            assert pids_of(pool) == before
            # A worker that dies meanwhile waits for the model.
            await kill(before[0])
            await until(pool, all_idle, 60)
            assert text_of(await collect(pool.generate(ask("hello")))) == "hello"

    run(work())


def test_a_zygote_dies_together_with_all_its_workers() -> None:
    async def work() -> None:
        async with ready(workers=2) as pool:
            zygote, workers = pid_of(pool), pids_of(pool)
            for pid in (zygote, *workers):
                os.kill(pid, signal.SIGKILL)
            for pid in workers:
                assert await asyncio.to_thread(wait_for_end, pid)
            events = await collect(pool.generate(ask("hello")))
            assert text_of(events) == "hello"
            await until(pool, all_idle, 60)
            assert not set(pids_of(pool)) & set(workers)

    run(work())


def zygote_of(server: Server) -> int:
    """The process that the workers of a server are forked from."""
    pid: int = server.ready()["zygote"]["pid"]
    return pid


def test_a_server_goes_on_and_ends_well() -> None:
    with served_echo() as server:
        zygote, workers = zygote_of(server), server.worker_pids()
        os.kill(zygote, signal.SIGKILL)
        server.wait_for_output(rf"the zygote \(pid {zygote}\) died \(killed by SIGKILL\)", "stderr")
        assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert server.http.post("/v1/completions", json={"prompt": "y"}).json() == "y"
        server.wait_until_idle()
        assert not {zygote, *workers} & set(server.worker_pids())
        server.stop()
    assert "Traceback" not in server.stderr


def test_workers_of_a_dead_zygote_end_with_their_gateway() -> None:
    with served_echo() as server:
        zygote = zygote_of(server)
        os.kill(zygote, signal.SIGKILL)
        server.wait_for_output("another loads the model", "stderr")
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait_until_gone(timeout=2) == []


def test_two_pools_live_side_by_side() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=1) as first:
            zygote = pid_of(first)
            async with ready(workers=2) as second:
                assert pid_of(second) != zygote
                for pool in (first, second):
                    await kill(pids_of(pool)[0])
                for pool in (first, second):
                    await until(pool, all_idle)
                    assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
                other = pid_of(second)
            assert await asyncio.to_thread(wait_for_end, other)
            assert is_alive(zygote)
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
            while loading.status().zygote.pid is None:
                await asyncio.sleep(0.002)
            await kill(pids_of(pool)[0])
            await until(pool, all_idle)
            assert not starting.done()
            await asyncio.wait_for(loading.close(), DEADLINE_S)
            await starting

    run(work())


def test_dead_zygotes_leave_no_descriptors() -> None:
    async def work() -> None:
        async def once() -> None:
            async with ready(workers=1) as pool:
                zygote = pid_of(pool)
                os.kill(zygote, signal.SIGKILL)
                await asyncio.wait_for(next_zygote(pool, zygote), DEADLINE_S)

        await once()
        gc.collect()
        before = descriptors()
        for _ in range(3):
            await once()
        gc.collect()
        assert descriptors() <= before

    run(work())


def test_every_worker_has_the_warm_prompt_in_its_cache() -> None:
    async def work() -> None:
        async with ready(config=PLAIN, warm_prompt=SYSTEM, parked=2) as pool:
            status = pool.status()
            assert status.zygote.prefix_tokens == len(BEGIN)
            assert [worker.cached_tokens for worker in status.workers] == [len(BEGIN)] * 4
            for question in ("one", "two", "three"):
                events = await collect(pool.generate(ask(BEGIN + question)))
                assert text_of(events) == BEGIN + question
                assert cached(events) == len(BEGIN)
            assert pool.status().totals.evictions == 0

    run(work())


def test_the_warm_prompt_survives_deaths_of_the_zygote() -> None:
    async def work() -> None:
        async with ready(config=PLAIN, warm_prompt=SYSTEM, workers=1) as pool:
            zygote = pid_of(pool)
            for _ in range(3):
                os.kill(zygote, signal.SIGKILL)
                zygote = await asyncio.wait_for(next_zygote(pool, zygote), DEADLINE_S)
            await kill(pids_of(pool)[0])
            await until(pool, all_idle)
            events = await collect(pool.generate(ask(BEGIN + "one")))
            assert (text_of(events), cached(events)) == (BEGIN + "one", len(BEGIN))

    run(work())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("plain", "WARM_PROMPT: the prefix has 115 tokens; it must have"),
        (None, "WARM_PROMPT: the chat template 'own' leaves out system messages"),
        (
            "{{ raise_exception('no system') }}",
            "WARM_PROMPT: a system message of it cannot be used: .* no system",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
            "{{ f(25) }}",
            "WARM_PROMPT: a system message of it cannot be used: The chat template was stopped",
        ),
    ],
)
def test_a_warm_prompt_that_cannot_be_had(
    template: str | None, reason: str, tmp_path: Path
) -> None:
    if template not in (None, "plain"):
        path = tmp_path / "my.jinja"
        path.write_text(str(template))
        template = str(path)

    async def work() -> None:
        config = WorkerConfig("echo", n_ctx=100, chat_template=template)
        async with started(config=config, warm_prompt="x" * 100) as pool:
            status = pool.status()
            assert status.state == "failed"
            assert status.reason is not None and re.match(reason, status.reason)
            with pytest.raises(PoolRefused) as refused:
                await anext(pool.generate(ask("x")))
            assert refused.value.code == ErrorCode.MODEL_UNAVAILABLE

    run(work())


def test_a_pool_can_be_closed_while_the_warm_prompt_is_evaluated() -> None:
    async def work() -> None:
        pool = LocalPool(  # 200 chunks of a second each
            WorkerConfig("echo", n_ctx=1 << 20, chat_template="plain", echo_delay_ms=1000),
            workers=2,
            max_queue=1,
            target=run_worker,
            preparer=run_preparer,
            warm_prompt="x" * 100_000,
        )
        starting = asyncio.create_task(pool.start())
        await until(pool, lambda status: status.zygote.pid is not None)
        zygote = pid_of(pool)
        with pytest.raises(PoolRefused) as refused:
            await anext(pool.generate(ask("x")))
        assert refused.value.code == ErrorCode.MODEL_LOADING
        await asyncio.wait_for(pool.close(), DEADLINE_S)
        await asyncio.wait_for(starting, DEADLINE_S)
        assert await asyncio.to_thread(wait_for_end, zygote)

    run(work())


_EXITS_WITHOUT_CLOSE = """
import asyncio, sys
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from worker.main import run_preparer, run_worker

async def main():
    config = WorkerConfig("echo", chat_template="plain")
    pool = LocalPool(config, workers=1, max_queue=1, target=run_worker, preparer=run_preparer,
                     warm_prompt="x" * 100)
    await pool.start()
    print(pool.status().zygote.pid)
    sys.exit(3)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_process_can_exit_without_closing_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    path.write_text(_EXITS_WITHOUT_CLOSE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, timeout=DEADLINE_S, stdout=subprocess.PIPE
    )
    assert done.returncode == 3
    assert wait_for_end(int(done.stdout))


@pytest.mark.parametrize(("engine", "threads"), [("llamacpp", 1), ("ctransformers", 2)])
def test_the_text_is_the_same_whatever_a_worker_has_from_the_zygote(
    engine: str, threads: int, demo_model: Path, rewritten_demo: Path
) -> None:
    """The logits are equal to the bit, so the greedy text is, too."""
    path = demo_model if engine == "llamacpp" else rewritten_demo
    config = WorkerConfig(engine, str(path), n_ctx=512, threads=threads)
    questions = [f"Question: what is {n} plus {n}? Answer:" for n in range(2)]
    prefix = "Numbers are added here, and nothing but added. " * 5
    system = {"role": "system", "content": prefix}

    async def texts(**options: Any) -> list[tuple[str, int]]:
        async with ready(config=config, workers=1, **options) as pool:
            answers = []
            for question in questions:
                user = {"role": "user", "content": question}
                prompt = await pool.prepare(Prepare("q", Chat((system, user))))
                assert isinstance(prompt, Prepared)
                request = replace(ask("", max_tokens=6), ids=prompt.ids)
                events = await collect(pool.generate(request))
                answers.append((text_of(events), cached(events)))
                await kill(pids_of(pool)[0])
                await until(pool, lambda s: all_idle(s) and s.state == "ready")
            return answers

    async def work() -> None:
        cold = await texts()
        born = await texts(warm_prompt=prefix)
        assert [text for text, _ in born] == [text for text, _ in cold]
        assert [n for _, n in cold] == [0] * len(questions)
        assert all(n > 40 for _, n in born)

    run(work())


def test_a_fork_waits_for_a_model_that_takes_long_to_load() -> None:
    async def work() -> None:
        async with ready(preload=("tests.integration.loads_slowly",)) as pool:
            await kill(pid_of(pool))
            await kill(pids_of(pool)[0])
            status = await until(pool, is_replaced)
            assert status.totals.deaths == {"killed": 1}
            assert [worker.reason for worker in status.workers] == [None, None]
            assert text_of(await collect(pool.generate(ask("hello")))) == "hello"

    run(work())


def is_replaced(status: PoolStatus) -> bool:
    """A worker has died, and all are there again."""
    return bool(status.totals.deaths) and all_idle(status)
