"""How workers are started, and that their places are kept."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from gateway.pool.deaths import Death
from gateway.pool.process import WorkerProcess
from tests.integration import targets
from tests.integration.pools import (
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
from tests.serving import served_echo


def test_a_worker_imports_nothing_that_its_zygote_could_have() -> None:
    async def work() -> None:
        preload = ("tests.integration.notes_modules",)
        async with started(target=targets.tells_imports, workers=1, preload=preload) as pool:
            status = await until(pool, lambda status: status.state == "failed")
            assert status.reason == "imported [], main is __main__"

    run(work())


def test_a_place_is_kept_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reap = WorkerProcess.reap
    mistakes = [RuntimeError("a mistake of ours")]

    async def reap_badly(self: Any) -> Death:
        ended = await reap(self)
        if mistakes:
            raise mistakes.pop()
        return ended

    monkeypatch.setattr(WorkerProcess, "reap", reap_badly)

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
