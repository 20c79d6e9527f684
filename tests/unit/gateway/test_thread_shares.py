"""Tests of how the threads are shared out, and of what that means for who is silent."""

import asyncio
from typing import Any

from gateway.pool.base import GenerationRecord, Terms
from gateway.pool.dispatcher import Dispatcher
from gateway.pool.prefix import EMPTY
from gateway.pool.thread_shares import ThreadShares
from shared.messages import Finished
from tests.unit.gateway.schedules import request


def test_how_scarce_threads_are() -> None:
    shares = ThreadShares(8)
    for worker_id in range(16):
        shares.add_worker(worker_id)
    for n_running, scarcity in ((1, 1), (2, 2), (3, 4), (8, 8), (16, 8), (0, 1)):
        running = {str(n): n for n in range(n_running)}
        list(shares.share(running, running.values()))
        assert shares.scarcity == scarcity


class Workers:
    def send(self, worker_id: int, command: Any) -> None:
        pass

    def renew(self, worker_id: int) -> None:
        pass

    def on_finished(self, start: Any, chars_per_token: float) -> None:
        pass


def test_who_has_fewer_threads_may_be_silent_for_longer() -> None:
    async def work() -> None:
        dispatcher = Dispatcher(Workers(), slots=4, max_queue=4, threads=4)
        for worker_id in range(4):
            dispatcher.add_worker(worker_id, EMPTY, 0)
        dispatcher.estimates.learn_completion(Finished("r", "stop", 10, 2000.0))
        alone_s = dispatcher.stall_s
        for number in range(4):
            dispatcher.submit(request(str(number), "x" * number), Terms(), GenerationRecord())
        assert dispatcher.stall_s == 4 * alone_s

    asyncio.run(work())
