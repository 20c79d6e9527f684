"""Tests of a real worker whose gateway reads more slowly than it generates."""

import array
import fcntl
import os
import select
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import multiprocess
import pytest

from shared.config import WorkerConfig
from shared.encoding import decode, encode
from shared.messages import (
    Cancel,
    Command,
    Delta,
    Finished,
    Generate,
    Message,
    Prefilled,
    Ready,
    Shutdown,
)
from shared.sampling import SamplingParams
from tests.serving import DEADLINE_S, START_S
from worker.main import run_worker

TEXT = "".join(chr(ord("a") + number % 26) for number in range(8000))
"""Its deltas are several times what a pipe holds."""


class Worker:
    """A worker process, and the gateway's ends of its queue and pipe."""

    def __init__(self) -> None:
        context = multiprocess.get_context("spawn")
        self.queue: Any = context.SimpleQueue()
        self.reader, writer = context.Pipe(duplex=False)
        self.process: Any = context.Process(
            target=run_worker,
            args=(WorkerConfig("echo", n_ctx=3 * len(TEXT)), self.queue, writer),
            daemon=True,
        )
        self.process.start()
        writer.close()
        self.rest = b""

    def send(self, command: Command) -> None:
        self.queue.put(encode(command))

    def receive(self, timeout: float = DEADLINE_S) -> list[Message]:
        """What there is, at least one message."""
        lines: list[bytes] = []
        while not lines:
            assert select.select([self.reader], [], [], timeout)[0]
            *lines, self.rest = (self.rest + os.read(self.reader.fileno(), 1 << 20)).split(b"\n")
        return [decode(line) for line in lines]

    def wait_until_it_waits(self) -> None:
        """Until the pipe is full, all commands are read, and the process sleeps."""
        deadline = time.monotonic() + DEADLINE_S
        unread = array.array("i", [0])
        while time.monotonic() < deadline:
            fcntl.ioctl(self.reader.fileno(), termios.FIONREAD, unread)
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
            is_asleep = stat.rpartition(")")[2].split()[0] == "S"
            if unread[0] > 1 << 15 and self.queue.empty() and is_asleep:
                return
            time.sleep(0.001)
        raise AssertionError("the worker does not wait for its reader")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    assert isinstance(worker.receive(START_S)[0], Ready)
    yield worker
    worker.process.kill()
    worker.process.join()
    worker.reader.close()
    worker.queue.close()


def generate() -> Generate:
    return Generate("r", tuple(TEXT.encode()), SamplingParams(temperature=0))


def test_generates_to_the_end_and_joins_what_waits(worker: Worker) -> None:
    worker.send(generate())
    worker.wait_until_it_waits()
    messages = worker.receive()
    while not isinstance(messages[-1], Finished):
        messages += worker.receive()
    first, *deltas, finished = messages
    assert isinstance(first, Prefilled)
    assert isinstance(finished, Finished)
    texts = [(delta.text, delta.tokens) for delta in deltas if isinstance(delta, Delta)]
    assert len(texts) == len(deltas)
    assert "".join(text for text, _ in texts) == TEXT
    assert all(len(text) == tokens for text, tokens in texts)
    assert finished.completion_tokens == len(TEXT)
    # The last of them waited, together with all that was generated meanwhile.
    assert texts[-1][1] > len(TEXT) / 4
    # And it is ready for more.
    worker.send(Generate("s", tuple(b"ok"), SamplingParams(temperature=0)))
    following = worker.receive()
    while not isinstance(following[-1], Finished):
        following += worker.receive()
    assert {message.request_id for message in following if isinstance(message, Delta)} == {"s"}


def test_hears_commands_while_it_waits(worker: Worker) -> None:
    worker.send(generate())
    worker.wait_until_it_waits()
    worker.send(Cancel("r"))
    worker.wait_until_it_waits()
    worker.send(Shutdown())
    worker.process.join(DEADLINE_S)
    assert worker.process.exitcode == 0
