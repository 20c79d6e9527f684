"""A decode loop with the real echo engine and queues in memory."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared.config import WorkerConfig
from shared.encoding import encode
from shared.errors import EngineError
from shared.messages import (
    Command,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    Prefilled,
    Progress,
    Saved,
)
from shared.sampling import SamplingParams
from worker.engines.base import Logits, SlotTokens
from worker.engines.echo import EchoEngine
from worker.loop import Loop, Sent


class Idle(Exception):
    """The loop has nothing to run and waits for a command."""


class Inbox:
    """A queue of commands that raises `Idle` where a real one would block for ever."""

    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()

    def put(self, command: Command) -> None:
        self.lines.append(encode(command))

    def get(self) -> bytes:
        if not self.lines:
            raise Idle
        return self.lines.popleft()

    def empty(self) -> bool:
        return not self.lines

    def fileno(self) -> int:
        raise AssertionError("nothing here waits")


class Outbox:
    """A pipe that takes everything at once; what is no event is kept apart."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.sent: list[Sent] = []

    def send(self, events: Sequence[Sent]) -> None:
        self.sent += events
        batch = [event for event in events if not isinstance(event, Progress | Saved)]
        if batch:
            self.batches.append(batch)

    def drain(self, until: object) -> None:
        pass


class WatchedEngine(EchoEngine):
    """The echo engine; it notes each batch, does something before it, and fails on demand."""

    def __init__(self, n_ctx: int | None, chunk: int, slots: int) -> None:
        super().__init__(WorkerConfig("echo", n_ctx=n_ctx, slots=slots))
        self.batch_size = 8 if slots > 1 else 512
        self.chunk = chunk
        self.batches: list[list[SlotTokens]] = []
        self.threads: list[int] = []
        #: number of a batch -> what happens before it
        self.before: dict[int, Callable[[], Any]] = {}
        self.bad_slots: set[int] = set()
        #: slot -> what its logits are
        self.ill_slots: dict[int, float] = {}

    @property
    def evaluated(self) -> list[list[int]]:
        """The tokens of each batch, of its first slot."""
        return [list(batch[0].tokens) for batch in self.batches]

    def chunk_size(self, slot: int) -> int:
        return self.chunk

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        if any(part.slot in self.bad_slots for part in batch):
            raise EngineError("a slot of this batch is bad")
        self.batches.append(list(batch))
        self.threads.append(threads)
        self.before.pop(len(self.batches), lambda: None)()
        rows = super().forward(batch, threads)
        for part, row in zip(batch, rows, strict=True):
            if part.slot in self.ill_slots and row is not None:
                row[:] = self.ill_slots[part.slot]
        return rows


class Bench:
    """A loop with its inbox, and the events that have come out of it."""

    def __init__(
        self, n_ctx: int | None = None, chunk: int = 512, threads: int = 1, slots: int = 1
    ) -> None:
        self.engine = WatchedEngine(n_ctx, chunk, slots)
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.loop = Loop(self.engine, threads, self.inbox, self.outbox)

    @property
    def batches(self) -> list[list[Event]]:
        return self.outbox.batches

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    def of(self, request_id: str) -> list[Event]:
        return [event for event in self.events if event.request_id == request_id]

    def run(self, *commands: Command) -> list[Event]:
        """Put the commands on the queue; run until the loop is idle; return what it emitted."""
        before = len(self.events)
        for command in commands:
            self.inbox.put(command)
        with pytest.raises(Idle):
            self.loop.run()
        return self.events[before:]

    def start(self, slot: int, text: str) -> str:
        request_id = f"{slot}-{text}"
        self.inbox.put(generate(text, request_id, slot=slot))
        return request_id


def generate(prompt: str, request_id: str = "r", **fields: Any) -> Generate:
    greedy = SamplingParams(temperature=0.0)
    return Generate(request_id, tuple(prompt.encode()), greedy, **fields)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def kinds(events: Sequence[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def end_of(events: Sequence[Event]) -> Finished | Failed:
    """The one terminal event of a generation, behind what may come before it."""
    *before, end = events
    assert isinstance(end, Finished | Failed), events
    assert kinds(before) == [Prefilled, *[Delta] * (len(before) - 1)][: len(before)]
    return end


def last(events: Sequence[Event]) -> Finished:
    """The successful end of a generation that has begun."""
    end = end_of(events)
    assert isinstance(end, Finished) and len(events) > 1, events
    return end


def failure(events: Sequence[Event]) -> Failed:
    """The end of one that has failed."""
    end = end_of(events)
    assert isinstance(end, Failed)
    return end
