"""Tests of what the watch over the memory does where it cannot be measured."""

import asyncio
from collections.abc import Iterator

import pytest

from gateway.pool import memory
from gateway.pool.memory import MemoryWatch


def test_what_cannot_be_measured_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "_INTERVAL_S", 0.001)
    seen: list[bool] = []

    def free_bytes() -> int | None:
        seen.append(watch.is_short)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def all_answers() -> Iterator[int | Exception]:
        yield from (10, ValueError("nonsense"), ValueError("nonsense"))
        while True:
            yield 10

    answers = all_answers()
    watch = MemoryWatch([], {}, most_bytes=None, least_free_bytes=100, free_bytes=free_bytes)

    async def work() -> None:
        task = asyncio.create_task(watch.run())
        while len(seen) < 5 and not task.done():
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 20))
    assert seen[:5] == [False, True, False, False, True]
    assert caplog.text.count("memory could not be measured") == 1
