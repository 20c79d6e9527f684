"""Tests of the decode loop with several slots: any order of commands, failures of one of many."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import WorkerConfig
from shared.encoding import encode
from shared.errors import EngineError
from shared.messages import (
    Cancel,
    Command,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    Prefilled,
    Progress,
)
from shared.sampling import SamplingParams
from worker.engines.base import Logits, SlotTokens
from worker.engines.echo import EchoEngine
from worker.loop import Loop

SLOTS = 4
GREEDY = SamplingParams(temperature=0.0)


class Engine(EchoEngine):
    """Four slots, small batches, and failures on demand."""

    batch_size = 8

    def __init__(self) -> None:
        super().__init__(WorkerConfig("echo", n_ctx=64, slots=SLOTS))
        self.batches: list[list[SlotTokens]] = []
        self.bad_slots: set[int] = set()
        self.ill_slots: set[int] = set()

    def chunk_size(self, slot: int) -> int:
        return 5

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        if any(part.slot in self.bad_slots for part in batch):
            raise EngineError("a slot of this batch is bad")
        self.batches.append(list(batch))
        rows = super().forward(batch, threads)
        for part, row in zip(batch, rows, strict=True):
            if part.slot in self.ill_slots and row is not None:
                row[:] = np.nan
        return rows


class Idle(Exception):
    """The loop has nothing to run and waits for a command."""


class Inbox:
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
    def __init__(self) -> None:
        self.writes: list[list[Event | Progress]] = []

    def send(self, events: Sequence[Event | Progress]) -> None:
        self.writes.append(list(events))

    def drain(self, until: object) -> None:
        pass

    def of(self, request_id: str) -> list[Event]:
        return [
            event
            for write in self.writes
            for event in write
            if event.request_id == request_id and not isinstance(event, Progress)
        ]


class Bench:
    def __init__(self) -> None:
        self.engine, self.inbox, self.outbox = Engine(), Inbox(), Outbox()
        self.loop = Loop(self.engine, 1, self.inbox, self.outbox)

    def run(self) -> None:
        """Run until the loop is idle."""
        with pytest.raises(Idle):
            self.loop.run()

    def start(self, slot: int, text: str) -> str:
        request_id = f"{slot}-{text}"
        self.inbox.put(Generate(request_id, tuple(text.encode()), GREEDY, slot=slot))
        return request_id


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def check_order(events: Sequence[Event]) -> Finished | Failed:
    *before, last = events
    assert isinstance(last, Finished | Failed), events
    assert all(isinstance(event, Prefilled) for event in before[:1])
    assert all(isinstance(event, Delta) for event in before[1:])
    return last


def test_all_slots_share_each_evaluation_and_each_write() -> None:
    bench = Bench()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("abcd")]
    bench.run()
    for name, letter in zip(names, "abcd", strict=True):
        assert text_of(bench.outbox.of(name)) == letter * 3
    # Two batches of prompts, eight tokens at most, then three steps of decoding and the end.
    sizes = [sum(len(part.tokens) for part in batch) for batch in bench.engine.batches]
    assert max(sizes) <= 8
    assert len(bench.outbox.writes) <= len(bench.engine.batches) + 1
    assert max(len({event.request_id for event in write}) for write in bench.outbox.writes) == 4


def test_those_that_decode_go_before_prompts() -> None:
    bench = Bench()
    bench.start(0, "ab")
    bench.loop.step()
    bench.start(1, "x" * 20)
    bench.loop.step()
    first, second = bench.engine.batches[-1]
    assert (first.slot, len(first.tokens), first.wants_logits) == (0, 1, True)
    assert (second.slot, len(second.tokens), second.wants_logits) == (1, 5, False)


def test_a_prefix_is_copied_from_another_slot() -> None:
    bench = Bench()
    bench.start(0, "the same beginning")
    bench.run()
    name = bench.start(3, "the same beginning, and more")
    bench.run()
    prefilled = bench.outbox.of(name)[0]
    assert isinstance(prefilled, Prefilled)
    assert prefilled.cached_tokens == len("the same beginning")
    assert text_of(bench.outbox.of(name)) == "the same beginning, and more"


def test_an_evaluation_that_fails_ends_only_the_one_at_fault() -> None:
    bench = Bench()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("abcd")]
    bench.engine.bad_slots = {2}
    bench.run()
    ends = [check_order(bench.outbox.of(name)) for name in names]
    assert [type(end) for end in ends] == [Finished, Finished, Failed, Finished]
    assert [text_of(bench.outbox.of(name)) for name in names] == ["aaa", "bbb", "", "ddd"]


def test_logits_of_one_slot_that_are_no_numbers_end_only_that() -> None:
    bench = Bench()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("ab")]
    bench.engine.ill_slots = {0}
    bench.run()
    failed = check_order(bench.outbox.of(names[0]))
    assert isinstance(failed, Failed) and "not finite" in failed.message
    assert text_of(bench.outbox.of(names[1])) == "bbb"


def test_a_slot_that_is_taken_is_no_place_for_another() -> None:
    bench = Bench()
    first, second = bench.start(0, "aaa"), bench.start(0, "bbb")
    bench.run()
    assert isinstance(check_order(bench.outbox.of(second)), Failed)
    assert text_of(bench.outbox.of(first)) == "aaa"


steps = st.tuples(
    st.sampled_from(["start", "start", "cancel", "break", "mend", "step", "step"]),
    st.integers(0, SLOTS - 1),
    st.text("ab", min_size=1, max_size=12),
)


@settings(max_examples=200, deadline=None)
@given(script=st.lists(steps, max_size=40))
def test_each_generation_has_one_end_and_its_own_text(script: list[tuple[str, int, str]]) -> None:
    bench, number = Bench(), 0
    texts: dict[str, str] = {}
    running: dict[int, str] = {}
    cancelled: set[str] = set()
    may_fail: set[str] = set()

    def note_ends() -> None:
        for slot, name in list(running.items()):
            if any(isinstance(event, Finished | Failed) for event in bench.outbox.of(name)):
                del running[slot]

    for what, slot, text in script:
        if what == "start":
            if slot in running:
                continue
            number += 1
            name = running[slot] = f"{number}"
            texts[name] = text
            if bench.engine.bad_slots:
                may_fail.add(name)
            bench.inbox.put(Generate(name, tuple(text.encode()), GREEDY, slot=slot))
        elif what == "cancel" and slot in running:
            cancelled.add(running[slot])
            bench.inbox.put(Cancel(running[slot]))
        elif what == "break":
            bench.engine.bad_slots = {slot}
            may_fail.update(running.values())
        elif what == "mend":
            bench.engine.bad_slots = set()
        elif what == "step" and running:
            with suppress(Idle):
                bench.loop.step()
            note_ends()
    bench.engine.bad_slots = set()
    bench.run()
    for name, text in texts.items():
        events = bench.outbox.of(name)
        last = check_order(events)
        assert sum(isinstance(event, Finished | Failed) for event in events) == 1
        if isinstance(last, Failed):
            assert name in may_fail
        elif last.finish_reason == "cancelled":
            assert name in cancelled
            assert text.startswith(text_of(events))
        else:
            assert text_of(events) == text
            assert last.ids == tuple(text.encode())
