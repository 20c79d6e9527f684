"""Tests of the watch on the event loop."""

import asyncio
import contextlib
import logging
import threading

import pytest

from gateway.observe import event_loop
from gateway.observe.event_loop import LoopWatch

DEADLINE_S = 20


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_EVERY_S", 0.02)
    monkeypatch.setattr(event_loop, "_STUCK_S", 0.2)


def test_its_lag_is_measured() -> None:
    async def measure() -> list[float]:
        lags: list[float] = []
        enough = asyncio.Event()

        def note(lag_s: float) -> None:
            lags.append(lag_s)
            if len(lags) == 3:
                enough.set()

        watching = asyncio.create_task(LoopWatch(note).run())
        await asyncio.wait_for(enough.wait(), DEADLINE_S)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return lags

    assert all(lag_s >= 0 for lag_s in asyncio.run(measure()))


def test_where_it_is_stuck_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logged = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.set()

    def stand_still() -> None:
        assert logged.wait(DEADLINE_S)
        logged.clear()
        assert not logged.wait(0.3)

    async def get_stuck() -> None:
        watching = asyncio.create_task(LoopWatch(lambda lag_s: None).run())
        await asyncio.sleep(0)
        stand_still()
        watching.cancel()

    listener = Listener()
    event_loop.logger.addHandler(listener)
    try:
        asyncio.run(get_stuck())
    finally:
        event_loop.logger.removeHandler(listener)
    (record,) = caplog.records
    assert "stand_still" in record.getMessage() and record.levelno == logging.ERROR
