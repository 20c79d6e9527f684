"""Conversations in several workers: they go on wherever there is room, also after a death."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.pool.base import Terms
from gateway.pool.local import LocalPool
from shared.config import WorkerConfig
from shared.messages import Event, Finished, Generate, Prefilled
from shared.sampling import SamplingParams
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import tiny
from tests.integration.pools import all_idle, collect, kill, pids_of, ready, run, times_of, until

WHOLE = Terms(is_whole=True)


class Chat:
    """A conversation; whatever it was answered, its turns are those of a pool that keeps all."""

    def __init__(self, number: int, n_begin: int = 60) -> None:
        self.number = number
        self.turns = 0
        self.ids = tuple(10 + (number * 37 + k * (number + 1)) % 200 for k in range(n_begin))
        self.last: Sequence[Event] = ()

    async def turn(self, pool: LocalPool, n: int = 32) -> Prefilled:
        prompt = (*self.ids, 10 + self.turns, 11 + self.number)
        request = Generate(f"{self.number}-{self.turns}", prompt, SamplingParams(temperature=0),
                           max_tokens=n, ignores_eog=True)  # fmt: skip
        self.last = await collect(pool.generate(request, WHOLE))
        finished, prefilled = self.last[-1], self.last[0]
        assert isinstance(finished, Finished) and isinstance(prefilled, Prefilled)
        self.ids, self.turns = (*prompt, *finished.ids), self.turns + 1
        return prefilled

    @property
    def worker_id(self) -> int:
        worker_id = times_of(self.last).worker_id
        assert worker_id is not None
        return worker_id


async def saved(pool: LocalPool, n: int = 1) -> None:
    """Wait until so many states have been saved, and none is on its way."""
    await until(
        pool, lambda status: status.prefix_cache.entries >= n and not status.prefix_cache.pending
    )


def config(path: Path, slots: int = 8, n_ctx: int = 512) -> WorkerConfig:
    return WorkerConfig("llamacpp", str(path), slots=slots, n_ctx=n_ctx, prefix_cache=32 << 20)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama().write(tmp_path_factory.mktemp("prefix") / "llama.gguf")


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_forty_chats_that_take_turns_are_not_read_again(
    architecture: str, llama: Path, tmp_path: Path
) -> None:
    """Two workers with 16 slots, whose cells hold a third of them."""
    path = llama
    if architecture != "llama":
        path = tiny(architecture).write(tmp_path / "model.gguf")

    async def work() -> None:
        async with ready(workers=2, config=config(path)) as pool:
            chats = [Chat(number) for number in range(40)]
            for turn in range(3):
                for n in range(0, 40, 4):
                    turns = [chat.turn(pool) for chat in chats[n : n + 4]]
                    before = [len(chat.ids) for chat in chats[n : n + 4]]
                    for prefilled, known in zip(await asyncio.gather(*turns), before, strict=True):
                        if turn:
                            assert known - 1 <= prefilled.cached_tokens <= known
            status = pool.status()
            assert status.totals.restored_tokens > 0.5 * status.totals.cached_tokens
            assert status.prefix_cache.entries >= 40

    run(work())


def test_a_chat_whose_worker_died_goes_on_in_another(llama: Path) -> None:
    async def work() -> None:
        async with ready(workers=2, config=config(llama)) as pool:
            chat = Chat(1, 200)
            await chat.turn(pool)
            await saved(pool)
            pid = pool.status().workers[chat.worker_id].pid
            assert pid is not None
            await kill(pid)
            known = len(chat.ids)
            prefilled = await chat.turn(pool)
            assert prefilled.cached_tokens >= known - 1
            assert prefilled.restored_tokens == prefilled.cached_tokens
            # And with the zygote that it is forked from: the next one has the same memory.
            zygote = pool.status().zygote.pid
            assert zygote is not None
            os.kill(zygote, signal.SIGKILL)
            await until(
                pool, lambda status: status.zygote.restarts == 1 and status.zygote.is_loaded
            )
            for pid in pids_of(pool):
                await kill(pid)
            known = len(chat.ids)
            prefilled = await chat.turn(pool)
            assert prefilled.cached_tokens >= known - 1

    run(work())


def test_workers_may_die_while_they_save_and_restore(tmp_path: Path) -> None:
    # Of this kind logits do not depend, to the bit, on what else is evaluated, or was cached.
    mamba = tiny("mamba").write(tmp_path / "mamba.gguf")

    async def work() -> None:
        async with ready(workers=2, config=config(mamba)) as pool:
            chats = [Chat(number, 100) for number in range(12)]
            expected = [Chat(number, 100) for number in range(12)]
            is_over = asyncio.Event()

            async def ends_workers() -> None:
                while not is_over.is_set():
                    for pid in pids_of(pool):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                        with suppress(asyncio.TimeoutError):
                            await asyncio.wait_for(is_over.wait(), 0.2)

            ending = asyncio.create_task(ends_workers())
            for _ in range(6):
                await asyncio.gather(*(chat.turn(pool, 60) for chat in chats))
            is_over.set()
            await ending
            status = await until(pool, all_idle)
            assert sum(status.totals.deaths.values()) >= 2
            await until(pool, lambda status: not status.prefix_cache.pending)
            assert not any(entry.is_pinned for entry in pool._scheduler.prefixes.entries)
            for chat in expected:
                for _ in range(6):
                    await chat.turn(pool, 60)
            assert status.totals.restored_tokens
            assert [chat.ids for chat in chats] == [chat.ids for chat in expected]

    run(work())
