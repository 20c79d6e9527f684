"""Tests of the decode loop, with the real echo engine and a queue in memory."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    SetThreads,
    Shutdown,
    Tokens,
)
from shared.sampling import SamplingParams
from worker.engines.base import SlotTokens
from worker.engines.echo import EchoEngine
from worker.loop import Loop

GREEDY = SamplingParams(temperature=0.0)


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
    """A pipe that takes everything at once; signs of life are kept apart from the events."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.sent: list[Event | Progress | Tokens] = []

    def send(self, events: Sequence[Event | Progress | Tokens]) -> None:
        self.sent += events
        told = [event for event in events if not isinstance(event, Progress | Tokens)]
        if told:
            self.batches.append(told)

    def drain(self, until: object) -> None:
        pass


class WatchedEngine(EchoEngine):
    """The echo engine; it notes each evaluation, and may be told to do something before it."""

    def __init__(self, n_ctx: int | None = None, chunk: int = 512) -> None:
        super().__init__(WorkerConfig("echo", n_ctx=n_ctx))
        self.chunk = chunk
        self.evaluated: list[list[int]] = []
        self.threads: list[int] = []
        self.before: dict[int, Callable[[], Any]] = {}
        self.rests: list[int] = []
        """How much had been evaluated each time that the engine was told to rest."""

    def chunk_size(self, slot: int) -> int:
        return self.chunk

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[NDArray[np.float32]]:
        self.evaluated.append(list(batch[0].tokens))
        self.threads.append(threads)
        self.before.pop(len(self.evaluated), lambda: None)()
        return super().forward(batch, threads)

    def rest(self) -> None:
        self.rests.append(len(self.evaluated))


class Bench:
    """A loop with its inbox, and the events that have come out of it."""

    def __init__(self, n_ctx: int | None = None, chunk: int = 512, threads: int = 1) -> None:
        self.engine = WatchedEngine(n_ctx, chunk)
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.loop = Loop(self.engine, threads, self.inbox, self.outbox)

    @property
    def batches(self) -> list[list[Event]]:
        return self.outbox.batches

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    def run(self, *commands: Command) -> list[Event]:
        """Put the commands on the queue; run until the loop is idle; return what it emitted."""
        before = len(self.events)
        for command in commands:
            self.inbox.put(command)
        with pytest.raises(Idle):
            self.loop.run()
        return self.events[before:]


def generate(prompt: str, request_id: str = "r", **fields: Any) -> Generate:
    return Generate(request_id, (prompt,), GREEDY, **fields)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def last(events: list[Event]) -> Finished:
    """The successful end of well-formed events."""
    assert kinds(events) == [Prefilled, *[Delta] * (len(events) - 2), Finished]
    assert isinstance(events[-1], Finished)
    return events[-1]


def failure(events: list[Event]) -> Failed:
    (event,) = events
    assert isinstance(event, Failed)
    return event


def test_prefilled_then_deltas_then_one_end() -> None:
    events = Bench().run(generate("abc"))
    assert kinds(events) == [Prefilled, Delta, Delta, Delta, Finished]
    assert {event.request_id for event in events} == {"r"}
    prefilled, *deltas, finished = events
    assert isinstance(prefilled, Prefilled)
    assert (prefilled.prompt_tokens, prefilled.cached_tokens) == (3, 0)
    assert prefilled.prefill_ms >= 0
    assert [(delta.text, delta.tokens) for delta in deltas if isinstance(delta, Delta)] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
    ]
    assert isinstance(finished, Finished)
    assert (finished.finish_reason, finished.completion_tokens) == ("stop", 3)
    assert finished.decode_ms >= 0


def test_the_first_text_comes_along_with_prefilled() -> None:
    bench = Bench()
    bench.run(generate("abc"))
    assert kinds(bench.batches[0]) == [Prefilled, Delta]


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 9))
def test_every_generation_is_answered_in_order(prompts: list[str], chunk: int) -> None:
    bench = Bench(chunk=chunk)
    for number, prompt in enumerate(prompts):
        events = bench.run(generate(prompt, request_id=str(number)))
        assert {event.request_id for event in events} == {str(number)}
        finished = last(events)
        assert finished.completion_tokens == len(prompt.encode())
        assert text_of(events) == prompt


def test_a_common_prefix_is_not_evaluated_again() -> None:
    bench = Bench()
    bench.run(generate("hello", max_tokens=1))
    events = bench.run(generate("help", request_id="s"))
    assert isinstance(events[0], Prefilled)
    assert (events[0].prompt_tokens, events[0].cached_tokens) == (4, 3)
    assert bench.engine.evaluated[1] == [ord("p")]
    assert text_of(events) == "help"


def test_a_long_prompt_is_evaluated_in_chunks() -> None:
    bench = Bench(chunk=4)
    assert text_of(bench.run(generate("0123456789"))) == "0123456789"
    assert bench.engine.evaluated[:4] == [
        list(b"0123"),
        list(b"4567"),
        list(b"89"),
        list(b"0"),
    ]


def test_cancelled_between_steps() -> None:
    bench = Bench()
    bench.engine.before[3] = lambda: bench.inbox.put(Cancel("r"))
    events = bench.run(generate("abcdef"))
    # What was being evaluated when the command came is still emitted.
    assert text_of(events) == "abc"
    finished = last(events)
    assert (finished.finish_reason, finished.completion_tokens) == ("cancelled", 3)
    assert len(bench.engine.evaluated) == 3
    assert text_of(bench.run(generate("next", request_id="s"))) == "next"


def test_cancelled_between_chunks_of_the_prompt() -> None:
    bench = Bench(chunk=4)
    bench.engine.before[2] = lambda: bench.inbox.put(Cancel("r"))
    (event,) = bench.run(generate("0123456789abcdef"))
    assert isinstance(event, Finished)
    assert (event.finish_reason, event.completion_tokens) == ("cancelled", 0)
    assert len(bench.engine.evaluated) == 2
    # What has been evaluated is in the cache.
    events = bench.run(generate("0123456789", request_id="s"))
    assert isinstance(events[0], Prefilled)
    assert events[0].cached_tokens == 8
    assert text_of(events) == "0123456789"


def test_cancelled_before_it_has_begun() -> None:
    bench = Bench()
    (event,) = bench.run(generate("abc"), Cancel("r"))
    assert isinstance(event, Finished)
    assert event.finish_reason == "cancelled"
    assert bench.engine.evaluated == []


def test_cancel_for_another_generation_is_ignored() -> None:
    bench = Bench()
    bench.engine.before[1] = lambda: bench.inbox.put(Cancel("other"))
    events = bench.run(generate("abc"))
    assert last(events).finish_reason == "stop"
    assert text_of(events) == "abc"
    # One that comes too late is about a generation that has ended.
    assert text_of(bench.run(Cancel("r"), generate("abc", request_id="s"), Cancel("r"))) == "abc"


def test_text_that_a_stop_string_might_begin_is_dropped_by_cancel() -> None:
    bench = Bench()
    bench.engine.before[2] = lambda: bench.inbox.put(Cancel("r"))
    events = bench.run(generate("ab!", stop=("b?",)))
    assert text_of(events) == "a"
    assert last(events).finish_reason == "cancelled"


def test_prompt_longer_than_the_context() -> None:
    bench = Bench(n_ctx=8)
    for prompt in ("12345678", "123456789"):
        failed = failure(bench.run(generate(prompt)))
        assert (failed.code, failed.param) == ("context_length_exceeded", "prompt")
        assert "context length is 8 tokens" in failed.message
        assert f"has {len(prompt)} in the prompt" in failed.message
        bench.batches.clear()
    assert bench.engine.evaluated == []
    assert text_of(bench.run(generate("1234567", request_id="s"))) == "1"


def test_a_completion_that_does_not_fit_is_refused() -> None:
    bench = Bench(n_ctx=8)
    failed = failure(bench.run(generate("abcd", max_tokens=5)))
    assert (failed.code, failed.param) == ("context_length_exceeded", "max_tokens")
    assert "4 in the prompt and 5 for the completion" in failed.message
    assert text_of(bench.run(generate("abcd", request_id="s", max_tokens=4))) == "abcd"


@pytest.mark.parametrize("fields", [{"max_tokens": 5, "max_tokens_is_default": True}, {}])
def test_a_length_that_nobody_chose_is_cut_to_the_context(fields: dict[str, Any]) -> None:
    finished = last(Bench(n_ctx=8).run(generate("abcdef", **fields)))
    assert (finished.finish_reason, finished.completion_tokens) == ("length", 2)


def test_max_tokens() -> None:
    events = Bench().run(generate("abcdef", max_tokens=3))
    finished = last(events)
    assert (finished.finish_reason, finished.completion_tokens) == ("length", 3)
    assert text_of(events) == "abc"


def test_empty_prompt() -> None:
    bench = Bench()
    failed = failure(bench.run(generate("")))
    assert (failed.code, failed.param) == ("invalid_prompt", "prompt")
    assert text_of(bench.run(generate("ok", request_id="s"))) == "ok"


def test_stop_string_across_tokens() -> None:
    events = Bench().run(generate("one two three", stop=("twist", "two t", "x")))
    assert text_of(events) == "one "
    finished = last(events)
    assert (finished.finish_reason, finished.completion_tokens) == ("stop", 9)


def test_stop_string_that_does_not_come_to_be() -> None:
    events = Bench().run(generate("one two", stop=("two three",)))
    assert text_of(events) == "one two"
    finished = last(events)
    assert (finished.finish_reason, finished.completion_tokens) == ("stop", 7)
    held = events[-2]
    assert isinstance(held, Delta)
    assert (held.text, held.tokens) == ("two", 3)


@given(st.text("aé日🙂", min_size=1, max_size=10), st.integers(1, 40))
def test_characters_are_never_broken(text: str, max_tokens: int) -> None:
    events = Bench().run(generate(text, max_tokens=max_tokens))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert all(delta.text for delta in deltas)
    n_bytes = min(max_tokens, len(text.encode()))
    assert text_of(events) == text.encode()[:n_bytes].decode("utf-8", "replace")
    if max_tokens >= len(text.encode()):
        assert [delta.text for delta in deltas] == list(text)
        assert [delta.tokens for delta in deltas] == [len(letter.encode()) for letter in text]
    assert last(events).completion_tokens == n_bytes


def test_threads_reach_the_engine() -> None:
    bench = Bench(threads=4)
    bench.engine.before[2] = lambda: bench.inbox.put(SetThreads(2))
    bench.run(generate("abc"))
    assert bench.engine.threads == [4, 4, 2, 2]
    bench.run(SetThreads(7), generate("x", request_id="s"))
    assert bench.engine.threads[4:] == [7, 7]


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_an_engine_error_ends_only_its_generation(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.engine.before[1] = fail_with(EngineError("the engine is unwell"))
    failed = failure(bench.run(generate("abc")))
    assert (failed.request_id, failed.code) == ("r", "engine_error")
    assert failed.message == "the engine is unwell"
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"
    assert caplog.records == []


def test_any_other_error_is_logged_and_its_text_kept_from_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.engine.before[3] = fail_with(ZeroDivisionError("oh"))
    with caplog.at_level(logging.ERROR):
        events = bench.run(generate("abc"))
    assert kinds(events) == [Prefilled, Delta, Delta, Failed]
    failed = failure(events[-1:])
    assert (failed.code, "oh" in failed.message) == ("engine_error", False)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"


def test_logits_that_are_not_finite_end_only_their_generation() -> None:
    class Ill(WatchedEngine):
        ill = True

        def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[NDArray[np.float32]]:
            (logits,) = super().forward(batch, threads)
            if self.ill:
                logits[:] = np.nan
            return [logits]

    bench = Bench()
    engine = Ill()
    bench.loop = Loop(engine, 1, bench.inbox, bench.outbox)
    assert failure(bench.run(generate("abc"))).code == "engine_error"
    engine.ill = False
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"


def test_a_prompt_that_cannot_be_tokenized_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Illiterate(WatchedEngine):
        def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
            raise RuntimeError("no")

    bench = Bench()
    bench.loop = Loop(Illiterate(), 1, bench.inbox, bench.outbox)
    with caplog.at_level(logging.ERROR):
        failed = failure(bench.run(generate("abc")))
    assert failed.code == "invalid_prompt"
    assert "no" not in failed.message.split()
    assert len(caplog.records) == 1


def test_shutdown_ends_the_loop_in_the_midst_of_a_generation() -> None:
    bench = Bench()
    bench.inbox.put(generate("abc"))
    bench.engine.before[2] = lambda: bench.inbox.put(Shutdown())
    bench.loop.run()
    assert kinds(bench.events) == [Prefilled, Delta, Delta]
    assert bench.inbox.empty()


def test_the_engine_rests_when_there_is_nothing_to_run() -> None:
    bench = Bench()
    bench.run(generate("abc"))
    assert bench.engine.rests == [4]
    bench.run(generate("ab", request_id="s"))
    assert bench.engine.rests == [4, len(bench.engine.evaluated)]
