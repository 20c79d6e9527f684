"""Real pools whose workers are born with a prefix, asked for or learned."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gateway import demo_model
from gateway.pool.base import PoolRefused, PoolStatus, TemplateStatus
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Event, ModelInfo, Prefilled
from tests.integration import targets
from tests.integration.pools import (
    PRELOAD,
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
from tests.models.reference import FOLDER
from tests.serving import DEADLINE_S, ROOT, wait_for_end
from worker.main import run_preparer, run_template, run_worker

SYSTEM = "You are a helpful assistant. " * 20
OTHER = "Translate into French, please. " * 40


def warm(*prompts: str) -> Callable[..., Awaitable[Sequence[tuple[int, ...]]]]:
    async def ids(model: ModelInfo, prepare: Any) -> Sequence[tuple[int, ...]]:
        return [tuple(prompt.encode()) for prompt in prompts]

    return ids


def echo(**options: Any) -> AbstractAsyncContextManager[LocalPool]:
    return ready(template_target=run_template, **options)


def cached(events: Sequence[Event]) -> int:
    assert isinstance(events[0], Prefilled)
    return events[0].cached_tokens


def all_idle(status: PoolStatus) -> bool:
    return all(worker.state == "idle" for worker in status.workers)


def all_born(status: PoolStatus) -> bool:
    """Whether every worker comes from the newest template."""
    generations = {worker.generation for worker in status.workers}
    return all_idle(status) and generations == {status.template.generation}


def children_of(pid: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            children.append(int(stat.parent.name))
    return children


def templates(pool: LocalPool) -> set[int]:
    """Processes of templates with a prefix: they come from the first one, and are no workers."""
    first, _ = pool._template.pids
    assert first is not None
    return set(children_of(first)) - set(pids_of(pool))


def test_every_worker_is_born_with_the_warm_prompt() -> None:
    async def work() -> None:
        async with echo(warm_prompts=warm(SYSTEM + "A", SYSTEM + "0"), parked=2) as pool:
            status = await until(pool, all_born)
            assert status.template.prefix_tokens == len(SYSTEM)
            assert [worker.cached_tokens for worker in status.workers] == [len(SYSTEM)] * 4
            assert [worker.restarts for worker in status.workers] == [0] * 4
            for question in ("one", "two", "three"):
                events = await collect(pool.generate(ask(SYSTEM + question)))
                assert text_of(events) == SYSTEM + question
                assert cached(events) == len(SYSTEM)
            assert pool.status().totals.evictions == 0
            # Also those that come later.
            await kill(pids_of(pool)[0])
            await until(pool, lambda s: s.workers[0].restarts == 1 and all_born(s))

    run(work())


def test_a_warm_prompt_that_is_too_long() -> None:
    async def work() -> None:
        config, prompts = WorkerConfig("echo", n_ctx=100), warm("x" * 100)
        async with started(
            config=config, template_target=run_template, warm_prompts=prompts
        ) as pool:
            status = pool.status()
            assert status.state == "failed"
            assert status.reason is not None
            assert status.reason.startswith("WARM_PROMPT: the prefix has 100 tokens; it must have")
            with pytest.raises(PoolRefused) as refused:
                await anext(pool.generate(ask("x")))
            assert refused.value.code == ErrorCode.MODEL_UNAVAILABLE

    run(work())


def test_a_warm_prompt_that_the_model_has_no_place_for() -> None:
    async def none(model: ModelInfo, prepare: Any) -> Sequence[tuple[int, ...]]:
        raise ValueError("there is no place for it")

    async def work() -> None:
        async with started(template_target=run_template, warm_prompts=none) as pool:
            assert pool.status().reason == "WARM_PROMPT: there is no place for it"

    run(work())


def slow_pool() -> LocalPool:
    """Evaluates a warm prompt for longer than any test takes: 200 chunks of a second each."""
    return LocalPool(
        WorkerConfig("echo", n_ctx=1 << 20, echo_delay_ms=1000),
        workers=2,
        max_queue=1,
        target=run_worker,
        preparer=run_preparer,
        template_target=run_template,
        warm_prompts=warm("x" * 100_000),
        preload=PRELOAD,
    )


def test_a_pool_can_be_closed_while_the_warm_prompt_is_evaluated() -> None:
    async def work() -> None:
        pool = slow_pool()
        starting = asyncio.create_task(pool.start())
        status = await until(pool, lambda s: s.model is not None)
        assert status.state == "starting"
        with pytest.raises(PoolRefused) as refused:
            await anext(pool.generate(ask("x")))
        assert refused.value.code == ErrorCode.MODEL_LOADING
        await until(pool, lambda _: len(templates(pool)) == 1)
        evaluating = templates(pool)
        await asyncio.wait_for(pool.close(), DEADLINE_S)
        await asyncio.wait_for(starting, DEADLINE_S)
        assert all([await asyncio.to_thread(wait_for_end, pid) for pid in evaluating])

    run(work())


def test_a_prefix_that_keeps_arriving_is_learned() -> None:
    async def work() -> None:
        async with echo(workers=1, parked=5) as pool:
            before = pids_of(pool)
            for question in ("one", "two", "six"):
                await collect(pool.generate(ask(SYSTEM + question)))
            status = await until(pool, lambda s: s.template.learned == 1)
            assert status.template.generation == 1
            assert status.template.prefix_tokens == len(SYSTEM)
            # Those that nobody has used are replaced; those with a conversation stay.
            status = await until(
                pool, lambda s: all_idle(s) and [w.generation for w in s.workers].count(1) == 3
            )
            assert len(set(before) & set(pids_of(pool))) == 3
            assert [worker.restarts for worker in status.workers] == [0] * 6
            events = await collect(pool.generate(ask(SYSTEM + "four")))
            assert cached(events) == len(SYSTEM)
            assert text_of(events) == SYSTEM + "four"

    run(work())


def test_a_template_goes_with_its_last_worker() -> None:
    async def work() -> None:
        async with echo(workers=1, parked=1) as pool:
            for question in ("one", "two", "six"):
                await collect(pool.generate(ask(SYSTEM + question)))
            await until(pool, lambda s: s.template.generation == 1 and all_idle(s))
            (first,) = templates(pool)
            # Until the other beginning is much more frequent among what is remembered.
            number = 0
            while pool.status().template.generation == 1:
                await collect(pool.generate(ask(f"{OTHER}{number}")))
                number += 1
                assert number < 100
            assert pool.status().template.prefix_tokens >= len(OTHER)
            for worker_id in (0, 1):
                await until(pool, all_idle)
                await kill(pids_of(pool)[worker_id])
            await until(pool, all_born)
            assert await asyncio.to_thread(wait_for_end, first)
            assert len(templates(pool)) == 1

    run(work())


def test_a_template_that_dies_is_made_again() -> None:
    async def work() -> None:
        async with echo(warm_prompts=warm(SYSTEM), parked=1) as pool:
            await until(pool, all_born)
            (template,) = templates(pool)
            os.kill(template, signal.SIGKILL)
            assert await asyncio.to_thread(wait_for_end, template)
            # Its workers live on.
            assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
            status = await until(pool, lambda s: s.template.generation == 2 and all_idle(s))
            assert status.template.prefix_tokens == len(SYSTEM)
            assert status.template.learned == 0
            # Those that have run nothing are replaced.
            await until(pool, lambda s: {each.generation for each in s.workers} == {1, 2})

    run(work())


def test_a_warm_prompt_is_not_displaced_by_what_is_learned() -> None:
    async def work() -> None:
        async with echo(warm_prompts=warm(SYSTEM), workers=1) as pool:
            await until(pool, all_born)
            for number in range(8):
                await collect(pool.generate(ask(f"{OTHER}{number}")))
            assert pool.status().template.generation == 1
            # But what goes on from it is learned.
            for number in range(40):
                await collect(pool.generate(ask(f"{SYSTEM}{OTHER}{number}")))
                if pool.status().template.learned:
                    break
            status = await until(pool, lambda s: s.template.learned == 1)
            assert status.template.prefix_tokens == len(SYSTEM + OTHER)

    run(work())


def test_a_prefix_that_cannot_be_made_is_not_tried_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def complaints() -> int:
        return sum("no template could be made" in text for text in caplog.messages)

    async def work() -> None:
        async with ready(template_target=targets.has_no_prefix, workers=1) as pool:
            for number in range(3):
                await collect(pool.generate(ask(f"{SYSTEM}{number}")))
            await until(pool, lambda _: complaints() == 1)
            for number in range(8):
                await collect(pool.generate(ask(f"{SYSTEM}{number}")))
            assert pool.status().template == TemplateStatus()

    run(work())
    assert complaints() == 1


def test_a_model_that_cannot_be_loaded_ends_the_start_with_a_warm_prompt_too(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        config = WorkerConfig("ctransformers", str(tmp_path / "none.gguf"), n_ctx=128)
        async with started(config=config, template_target=run_template,
                           warm_prompts=warm(SYSTEM)) as pool:  # fmt: skip
            status = pool.status()
            assert status.state == "failed"
            assert status.reason is not None and "none.gguf" in status.reason

    run(work())


def test_the_pool_is_ready_while_a_worker_is_renewed() -> None:
    async def work() -> None:
        async with echo(workers=1) as pool:
            states = set()
            for number in range(12):
                await collect(pool.generate(ask(f"{SYSTEM}{number}")))
                for _ in range(100):
                    states.add(pool.status().state)
                    await asyncio.sleep(0)
            before = pids_of(pool)
            os.kill(before[0], signal.SIGKILL)
            await until(pool, lambda s: all_born(s) and pids_of(pool) != before)
            pool.renew(0)
            while (status := pool.status()).workers[0].state != "starting":
                states.add(status.state)
                await asyncio.sleep(0)
            while (status := pool.status()).workers[0].state == "starting":
                states.add(status.state)
                await asyncio.sleep(0)
            assert states == {"ready"}

    run(work())


def test_a_cache_that_cannot_be_cut_back_is_renewed_for_the_warm_prompt() -> None:
    """Falcon's older files: a prompt can go on from the whole cache, or begin anew."""
    path = FOLDER / "falcon-7b.bin"
    config = WorkerConfig("ctransformers", str(path), n_ctx=256, threads=1)
    prefix = "Numbers are added here, and nothing but added. " * 4

    async def work() -> None:
        async with ready(config=config, workers=1, template_target=run_template,
                         warm_prompts=warm(prefix)) as pool:  # fmt: skip
            await until(pool, all_born)
            n_tokens = pool.status().template.prefix_tokens
            for number in range(3):
                prompt = f"{prefix}What is {number}?"
                events = await collect(pool.generate(ask(prompt, max_tokens=4)))
                assert cached(events) == n_tokens > 60

    run(work())


_EXITS_WITHOUT_CLOSE = """
import asyncio, sys
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from worker.main import run_preparer, run_template, run_worker

async def main():
    pool = LocalPool(WorkerConfig("echo"), workers=1, max_queue=1, target=run_worker,
                     template_target=run_template, warm_prompts=lambda model: [("x" * 100,)],
                     preload=["worker.template"])
    await pool.start()
    sys.exit(3)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_process_with_templates_can_exit_without_closing_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    path.write_text(_EXITS_WITHOUT_CLOSE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(path)], env=environment, timeout=DEADLINE_S)
    assert done.returncode == 3


def test_templates_leave_no_descriptors() -> None:
    async def work() -> None:
        async with echo(workers=1) as pool:
            for prefix in (SYSTEM, OTHER):
                before, number = pool.status().template.generation, 0
                while pool.status().template.generation == before:
                    await collect(pool.generate(ask(f"{prefix}{number}")))
                    number += 1
            await until(pool, all_idle)

    run(work())
    gc.collect()
    before = descriptors()
    run(work())
    gc.collect()
    assert descriptors() == before


def test_the_text_is_the_same_whatever_a_worker_was_born_with() -> None:
    """The logits are equal to the bit, so the greedy text is, too."""
    config = WorkerConfig("ctransformers", str(demo_model.fetch()), n_ctx=512, threads=1)
    questions = [f"Question: what is {n} plus {n}? Answer:" for n in range(4)]
    prefix = "Numbers are added here, and nothing but added. " * 8

    async def texts(**options: Any) -> list[tuple[str, int]]:
        async with ready(config=config, workers=1, **options) as pool:
            answers = []
            for question in questions:
                events = await collect(pool.generate(ask(prefix + question, max_tokens=12)))
                answers.append((text_of(events), cached(events)))
                await kill(pids_of(pool)[0])
                await until(pool, lambda s: all_idle(s) and s.state == "ready")
            return answers

    async def work() -> None:
        cold = await texts()
        born = await texts(template_target=run_template, warm_prompts=warm(prefix))
        assert [text for text, _ in born] == [text for text, _ in cold]
        assert [n for _, n in cold] == [0] * len(questions)
        assert all(n > 60 for _, n in born)

    run(work())
