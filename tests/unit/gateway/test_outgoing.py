"""What is sent to a worker that does not read: nothing blocks, nothing is lost, all in order."""

import asyncio
import os

import pytest

from gateway.pool.pipes import Outgoing
from tests.serving import DEADLINE_S


def test_a_worker_that_does_not_read_holds_up_nobody() -> None:
    async def work() -> None:
        reader, writer = os.pipe()
        outgoing = Outgoing(writer)
        lines = [b"%d" % n * 50_000 for n in range(10)]
        for line in lines:
            outgoing.send(line)  # far more than a pipe holds
        await asyncio.sleep(0)
        os.set_blocking(reader, False)
        got, deadline = b"", asyncio.get_running_loop().time() + DEADLINE_S
        while got.count(b"\n") < len(lines):
            assert asyncio.get_running_loop().time() < deadline
            try:
                got += os.read(reader, 1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert got.split(b"\n") == [*lines, b""]
        outgoing.send(b"once more")
        assert os.read(reader, 100) == b"once more\n"
        outgoing.close()
        os.close(reader)

    asyncio.run(work())


@pytest.mark.parametrize("has_unsent", [True, False])
def test_a_worker_that_is_gone_is_no_error(has_unsent: bool) -> None:
    async def work() -> None:
        reader, writer = os.pipe()
        outgoing = Outgoing(writer)
        if has_unsent:
            outgoing.send(b"x" * 1_000_000)
        os.close(reader)
        await asyncio.sleep(0)
        outgoing.send(b"nobody reads this")
        await asyncio.sleep(0)
        outgoing.close()
        outgoing.close()

    asyncio.run(work())
