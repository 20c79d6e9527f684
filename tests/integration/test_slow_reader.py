"""Tests of a real worker whose gateway reads more slowly than it generates."""

import array
import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

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
from tests.serving import DEADLINE_S, ROOT, START_S

TEXT = "".join(chr(ord("a") + number % 26) for number in range(8000))
"""Its deltas are several times what a pipe holds."""


class Worker:
    """A worker process, and the gateway's ends of its queue and pipe."""

    def __init__(self) -> None:
        commands, self.commands = os.pipe()
        self.reader, events = os.pipe()
        config = WorkerConfig("echo", n_ctx=3 * len(TEXT))
        code = (
            "from shared.config import WorkerConfig; from worker import loading;"
            "from worker.main import run_worker; from worker.pipes import Inbox, Outbox;"
            f"loading.load(config := {config!r});"
            f"run_worker(config, Inbox({commands}), Outbox({events}))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, pass_fds=(commands, events)
        )
        os.close(events)
        # Kept, to see whether all commands are read.
        self.unread = commands
        self.rest = b""

    def send(self, command: Command) -> None:
        os.write(self.commands, encode(command) + b"\n")

    def receive(self, timeout: float = DEADLINE_S) -> list[Message]:
        """What there is, at least one message."""
        lines: list[bytes] = []
        while not lines:
            assert select.select([self.reader], [], [], timeout)[0]
            *lines, self.rest = (self.rest + os.read(self.reader, 1 << 20)).split(b"\n")
        return [decode(line) for line in lines]

    def wait_until_it_waits(self) -> None:
        """Until the pipe is full, all commands are read, and the process sleeps."""
        deadline = time.monotonic() + DEADLINE_S
        unread = array.array("i", [0])
        while time.monotonic() < deadline:
            fcntl.ioctl(self.reader, termios.FIONREAD, unread)
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
            is_asleep = stat.rpartition(")")[2].split()[0] == "S"
            if unread[0] > 1 << 15 and not select.select([self.unread], [], [], 0)[0] and is_asleep:
                return
            time.sleep(0.001)
        raise AssertionError("the worker does not wait for its reader")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    assert isinstance(worker.receive(START_S)[0], Ready)
    yield worker
    worker.process.kill()
    worker.process.wait()
    for descriptor in (worker.reader, worker.commands, worker.unread):
        os.close(descriptor)


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
    assert worker.process.wait(DEADLINE_S) == 0
