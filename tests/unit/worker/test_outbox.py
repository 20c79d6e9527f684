"""Tests of the sending side with real pipes, read and not read."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encoding import decode, encode
from shared.messages import Delta, Event, Failed, Finished, Prefilled, Shutdown
from tests.serving import DEADLINE_S
from worker.pipes import Inbox, Outbox


class Pipe:
    """A pipe of one page, whose reader reads when it is told to."""

    def __init__(self) -> None:
        import fcntl

        self.reader, self.writer = os.pipe()
        self.n_bytes = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.reader, False)
        self.received = b""

    def read(self) -> bool:
        """Take what is there; whether there was something."""
        try:
            chunk = os.read(self.reader, self.n_bytes)
        except BlockingIOError:
            return False
        self.received += chunk
        return bool(chunk)

    def events(self) -> list[Event]:
        """All that has arrived in whole lines."""
        return [decode(line) for line in self.received.split(b"\n")[:-1]]

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def merged(events: list[Event]) -> list[Event]:
    """The same with each run of deltas as one."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Delta) and isinstance(last, Delta):
            event = Delta(event.request_id, last.text + event.text, last.tokens + event.tokens)
            result.pop()
        result.append(event)
    return result


def fill(outbox: Outbox) -> list[Event]:
    """Send several times as much as the pipe takes, piece by piece."""
    sent: list[Event] = [Delta("r", f"{number} {'x' * 100}", 1) for number in range(200)]
    for event in sent:
        outbox.send([event])
    return sent


def test_events_are_written_at_once_as_lines(pipe: Pipe) -> None:
    outbox = Outbox(pipe.writer)
    events: list[Event] = [Prefilled("r", 3, 0, 1.5), Delta("r", "a\nb", 1)]
    outbox.send(events)
    outbox.send([Finished("r", "stop", 1, 2.0)])
    assert pipe.read()
    assert pipe.received == b"".join(
        encode(event) + b"\n" for event in [*events, Finished("r", "stop", 1, 2.0)]
    )


def test_a_full_pipe_stops_nobody_and_loses_nothing(pipe: Pipe) -> None:
    outbox = Outbox(pipe.writer)
    sent = fill(outbox)
    end = Finished("r", "length", len(sent), 1.0)
    outbox.send([Delta("r", "last", 2), end])
    while pipe.read():
        outbox.send([])
    arrived = pipe.events()
    assert merged(arrived) == merged([*sent, Delta("r", "last", 2), end])
    # What did not fit waited, and came as one.
    assert len(arrived) < len(sent) / 2


@given(
    st.lists(
        st.one_of(
            st.text(max_size=3000).map(lambda text: Delta("r", text, 1)),
            st.just(None),
            st.sampled_from([Prefilled("r", 1, 0, 0.0), Failed("r", "x", "y")]),
        ),
        max_size=30,
    )
)
def test_any_reader_gets_everything_in_order(steps: list[Event | None]) -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.writer)
    sent: list[Event] = []
    for step in steps:
        if step is None:
            pipe.read()
        else:
            sent.append(step)
            outbox.send([step])
    outbox.send([Finished("r", "stop", 0, 0.0)])
    while pipe.read():
        outbox.send([])
    pipe.close()
    assert merged(pipe.events()) == merged([*sent, Finished("r", "stop", 0, 0.0)])


def test_deltas_of_two_generations_are_not_joined(pipe: Pipe) -> None:
    outbox = Outbox(pipe.writer)
    fill(outbox)
    outbox.send([Delta("s", "one", 1), Delta("t", "two", 1), Delta("t", " three", 2)])
    while pipe.read():
        outbox.send([])
    assert pipe.events()[-2:] == [Delta("s", "one", 1), Delta("t", "two three", 3)]


def test_drain_waits_for_the_reader(pipe: Pipe) -> None:
    outbox = Outbox(pipe.writer)
    sent = fill(outbox)
    outbox.send([Finished("r", "stop", 1, 0.0)])
    thread = threading.Thread(target=outbox.drain)
    thread.start()
    while thread.is_alive():
        select.select([pipe.reader], [], [], 0.01)
        pipe.read()
    thread.join(DEADLINE_S)
    while pipe.read():
        pass
    assert merged(pipe.events()) == merged([*sent, Finished("r", "stop", 1, 0.0)])


def test_drain_ends_when_a_command_comes(pipe: Pipe) -> None:
    outbox = Outbox(pipe.writer)
    fill(outbox)
    reader, writer = os.pipe()
    inbox = Inbox(reader)
    thread = threading.Thread(target=outbox.drain, args=(inbox,), daemon=True)
    thread.start()
    os.write(writer, encode(Shutdown()) + b"\n")
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert not inbox.empty()
    os.close(reader)
    os.close(writer)


def test_drain_of_nothing_returns(pipe: Pipe) -> None:
    Outbox(pipe.writer).drain()


def test_a_reader_that_is_gone_ends_the_process() -> None:
    code = (
        "import os; from worker.pipes import Outbox; from shared.messages import Delta\n"
        "reader, writer = os.pipe(); os.close(reader)\n"
        "Outbox(writer).send([Delta('r', 'x', 1)])\n"
        "raise SystemExit('the process goes on')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)


def test_inbox_sees_what_is_in_the_pipe() -> None:
    reader, writer = os.pipe()
    inbox = Inbox(reader)
    assert inbox.empty()
    os.write(writer, b"one\ntwo\nthr")
    assert not inbox.empty()
    assert (inbox.get(), inbox.empty(), inbox.get(), inbox.empty()) == (b"one", False, b"two", True)
    os.write(writer, b"ee\n")
    assert (inbox.empty(), inbox.get(), inbox.empty()) == (False, b"three", True)
    os.close(reader)
    os.close(writer)


def test_a_long_command_comes_in_pieces() -> None:
    reader, writer = os.pipe()
    inbox, long = Inbox(reader), b"x" * 1_000_000
    thread = threading.Thread(target=lambda: os.write(writer, long + b"\n"))
    thread.start()
    assert inbox.get() == long
    thread.join(DEADLINE_S)
    os.close(reader)
    os.close(writer)
