"""What workers write to standard error, and their last words, reach the log of the gateway."""

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.config import WorkerConfig
from shared.encoding import decode, encode
from shared.messages import Generate, Ready, Shutdown
from tests.integration.pools import all_idle, ask, collect, descriptors, run, started, until
from tests.integration.targets import MODEL

LOG = "gateway.pool.pipes"


@pytest.fixture(autouse=True)
def bodies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the zygote, which imports this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def _ready(inbox: Any, outbox: Any) -> None:
    os.write(outbox.fileno(), encode(Ready(MODEL)) + b"\n")
    while not isinstance(decode(inbox.get()), Generate | Shutdown):
        pass


def speaks(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Writes before it is ready, as a C library does."""
    os.write(2, b"ggml: first\nggml: sec")
    os.write(2, b"ond\r\n\n\x1b[31mred\xff\n")
    os.write(2, b"x" * 5000 + b"\n")
    os.write(2, b"no end of line")
    _ready(inbox, outbox)


def aborts(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    os.write(2, b"GGML_ASSERT: ggml.c:1: false\n")
    os.abort()


def reads_nowhere(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    ctypes.string_at(0)


def raises(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    raise RuntimeError("nobody expects this")


def floods(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    os.write(outbox.fileno(), encode(Ready(MODEL)) + b"\n")
    os.write(2, b"begin\n")
    for _ in range(40):
        os.write(2, b"noise\n" * 10_000)
    os.write(2, b"x" * 1_000_000)
    os.write(2, b"\nlast words\n")


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG]


def test_lines_carry_the_name_of_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with started(target=speaks, workers=1) as pool:
            await until(pool, all_idle)

    run(work())
    first, second, red, long, last = lines_of(caplog)
    assert first == "worker-0 stderr: ggml: first"
    assert second == "worker-0 stderr: ggml: second"
    assert red == "worker-0 stderr: \\x1b[31mred\\xff"
    assert long.startswith("worker-0 stderr: xxx") and long.endswith("x ...") and len(long) < 1100
    assert last == "worker-0 stderr: no end of line"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (aborts, ["GGML_ASSERT: ggml.c:1: false", "Fatal Python error: Aborted", "in aborts"]),
        (reads_nowhere, ["Fatal Python error: Segmentation fault", "in reads_nowhere"]),
        (raises, ["RuntimeError: nobody expects this", "in raises"]),
    ],
)
def test_last_words_are_not_lost(
    target: Callable[..., None],
    words: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def work() -> None:
        async with started(target=target, workers=1) as pool:
            await until(pool, lambda status: status.state == "failed")

    run(work())
    text = "\n".join(lines_of(caplog))
    for word in words:
        assert word in text
    assert capfd.readouterr().err == ""


def test_a_flood_is_cut_short_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with started(target=floods, workers=1) as pool:
            await until(pool, lambda status: status.workers[0].restarts >= 1)

    run(work())
    lines = lines_of(caplog)
    assert lines[0] == "worker-0 stderr: begin"
    left_out = sum(int(line.split()[2]) for line in lines if line.endswith("lines are left out"))
    noise = sum(line.endswith("noise") for line in lines)
    assert left_out > 300_000 and noise < 5000


def test_the_log_of_a_worker_is_not_taken_for_it(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        config = WorkerConfig("echo", log_level="DEBUG")
        async with started(config=config, workers=1, target=logs) as pool:
            await until(pool, all_idle)

    run(work())
    assert lines_of(caplog) == []
    assert "said by a worker" in capfd.readouterr().err


def logs(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    from shared.logging import configure_logging

    configure_logging("INFO")
    logging.getLogger("worker").info("said by a worker")
    _ready(inbox, outbox)


def test_replaced_workers_leave_no_descriptors() -> None:
    async def work() -> None:
        async with started(workers=1) as pool:

            async def replace_one() -> None:
                await until(pool, all_idle)
                restarts = pool.status().workers[0].restarts
                os.kill(pool.status().workers[0].pid or 0, 9)
                await until(pool, lambda s: s.workers[0].restarts > restarts and all_idle(s), 30)
                await collect(pool.generate(ask("x")))

            await replace_one()
            before = descriptors()
            for _ in range(5):
                await replace_one()
            assert descriptors() == before

    run(work())
