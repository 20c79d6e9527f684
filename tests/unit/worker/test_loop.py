"""Tests of the decode loop, with the real echo engine and a queue in memory."""

import base64
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EngineError
from shared.grammar import Grammar, GrammarKind
from shared.messages import Cancel, Delta, Event, Failed, Finished, Prefilled, SetThreads, Shutdown
from tests.unit.worker.loops import Bench, failure, generate, kinds, last, text_of
from worker import threads


def prefilled_of(events: list[Event]) -> Prefilled:
    assert isinstance(events[0], Prefilled)
    return events[0]


def test_prefilled_then_deltas_then_one_end() -> None:
    bench = Bench()
    events = bench.run(generate("abc"))
    assert kinds(events) == [Prefilled, Delta, Delta, Delta, Finished]
    assert kinds(bench.batches[0]) == [Prefilled, Delta], "with one write"
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


@pytest.mark.parametrize(
    ("step", "fields", "text"),
    [
        (1, {}, "a"),  # what was being evaluated when the command came is still emitted
        (3, {}, "abc"),
        (2, {"stop": ("b?",)}, "a"),  # what a stop string might begin with is dropped
        (4, {"grammar": Grammar(GrammarKind.REGEX.value, "[a-f]*")}, "abcd"),
    ],
)
def test_cancelled_between_steps(step: int, fields: dict[str, Any], text: str) -> None:
    bench = Bench()
    bench.engine.before[step] = lambda: bench.inbox.put(Cancel("r"))
    events = bench.run(generate("abcdef", **fields))
    assert text_of(events) == text
    assert (last(events).finish_reason, last(events).completion_tokens) == ("cancelled", step)
    assert len(bench.engine.evaluated) == step
    assert text_of(bench.run(generate("next", request_id="s"))) == "next"


@pytest.mark.parametrize("fields", [{}, {"embeds": True}, {"echoes_from": 0, "logprobs": 0}])
def test_cancelled_between_chunks_of_the_prompt(fields: dict[str, Any]) -> None:
    bench = Bench(chunk=4)
    bench.engine.before[2] = lambda: bench.inbox.put(Cancel("r"))
    (event,) = bench.run(generate("0123456789abcdef", **fields))
    assert isinstance(event, Finished)
    assert (event.finish_reason, event.completion_tokens) == ("cancelled", 0)
    assert (event.embedding, len(bench.engine.evaluated)) == ("", 2)
    # What has been evaluated is in the cache.
    events = bench.run(generate("0123456789", request_id="s"))
    assert prefilled_of(events).cached_tokens == sum(map(len, bench.engine.evaluated[:2]))
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


def test_what_is_generated_ends_with_the_context() -> None:
    for most in (5, None):
        finished = last(Bench(n_ctx=8).run(generate("abcdef", max_tokens=most)))
        assert (finished.finish_reason, finished.completion_tokens) == ("length", 2)
        assert finished.ids == tuple(b"ab")


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


def test_threads_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever else runs on this machine takes no threads away.
    monkeypatch.setattr(threads, "_NOTICEABLE_S", math.inf)
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


@pytest.mark.parametrize(
    ("error", "message", "is_logged"),
    [
        (EngineError("the engine is unwell"), "the engine is unwell", False),
        (ZeroDivisionError("oh"), "the generation failed; the server's log says why", True),
    ],
)
def test_an_error_ends_only_its_generation_and_any_but_the_engines_is_kept_from_the_client(
    error: Exception, message: str, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.engine.before[3] = fail_with(error)
    with caplog.at_level(logging.ERROR):
        events = bench.run(generate("abc"))
    assert kinds(events) == [Prefilled, Delta, Delta, Failed]
    failed = failure(events)
    assert (failed.code, failed.message) == ("engine_error", message)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * is_logged
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("case", range(4))
def test_logits_that_are_no_numbers_end_only_their_generation(case: int, value: float) -> None:
    fields: list[dict[str, Any]] = [
        {}, {"logprobs": 0}, {"logprobs": 1, "echoes_from": 0}, {"grammar": grammar(regex="a|b")},
    ]  # fmt: skip
    bench = Bench()
    bench.engine.ill_slots = {0: value}
    failed = failure(bench.run(generate("abc", **fields[case])))
    assert (failed.code, failed.message) == ("engine_error", "the model's logits are not finite")
    bench.engine.ill_slots = {}
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"


def test_shutdown_ends_the_loop_in_the_midst_of_a_generation() -> None:
    bench = Bench()
    bench.inbox.put(generate("abc"))
    bench.engine.before[2] = lambda: bench.inbox.put(Shutdown())
    bench.loop.run()
    assert kinds(bench.events) == [Prefilled, Delta, Delta]
    assert bench.inbox.empty()


def grammar(schema: Any = None, **regex: str) -> Grammar:
    if regex:
        return Grammar(GrammarKind.REGEX.value, regex["regex"])
    return Grammar(GrammarKind.JSON_SCHEMA.value, json.dumps(schema))


OBJECT = grammar({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                  "additionalProperties": False})  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "fields", "text", "reason", "n_tokens"),
    [
        # Nothing is evaluated that nothing could follow.
        ('{"a": 12} and more', {"grammar": OBJECT}, '{"a": 12}', "stop", 9),
        ("say x", {"grammar": grammar(regex="no")}, "no", "stop", 2),
        ("12", {"grammar": grammar(regex=r"\d+")}, "12", "stop", 2),
        ("12", {"grammar": grammar(regex=r"1\d12")}, "1212", "stop", 4),
        ('{"a": 12}', {"grammar": OBJECT, "max_tokens": 7}, '{"a": 1', "length", 7),
        ('{"a": 12}', {"grammar": OBJECT, "max_tokens": 9}, '{"a": 12}', "stop", 9),
        ('{"a": 12}', {"grammar": OBJECT, "stop": (": ",)}, '{"a"', "stop", 6),
    ],
)
def test_what_a_grammar_lets_through(
    prompt: str, fields: dict[str, Any], text: str, reason: str, n_tokens: int
) -> None:
    bench = Bench()
    events = bench.run(generate(prompt, **fields))
    assert (text_of(events), last(events).finish_reason) == (text, reason)
    assert last(events).completion_tokens == n_tokens


@pytest.mark.parametrize("wrong", [grammar({"not": {}}), grammar(regex="(a"), Grammar("x", "y")])
def test_a_grammar_that_cannot_be_used_is_refused(wrong: Grammar) -> None:
    bench = Bench()
    failed = failure(bench.run(generate("abc", grammar=wrong)))
    assert (failed.code, failed.param) == ("invalid_value", "grammar")
    assert failed.message.startswith("cannot be used: ")
    assert bench.engine.evaluated == []
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"


HARD = grammar(regex=r"((\w+\s?){1,1000}\w*){1,1000}")


def test_a_grammar_that_fails_on_the_way_ends_its_generation_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    *events, failed = bench.run(generate("a" * 100, grammar=HARD))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param) == ("invalid_value", "grammar")
    assert kinds(events) == [Prefilled, *[Delta] * (len(events) - 1)] and len(events) > 1
    assert text_of(bench.run(generate("abc", request_id="s"))) == "abc"
    assert caplog.records == [], "it is no fault of the server's"


def test_nothing_is_generated_of_no_tokens() -> None:
    bench = Bench(n_ctx=4)
    for fields in ({}, {"grammar": OBJECT}, {"logprobs": 2}, {"min_tokens": 0}):
        events = bench.run(generate("abcd", max_tokens=0, **fields))
        finished = last(events)
        assert kinds(events) == [Prefilled, Finished]
        assert (finished.finish_reason, finished.completion_tokens) == ("length", 0)


def test_an_echoed_prompt_is_told_of_token_by_token() -> None:
    bench = Bench(chunk=4)
    bench.run(generate("0123"))
    bench.engine.batches.clear()
    events = bench.run(generate("012é", echoes_from=0, logprobs=1, max_tokens=2, request_id="s"))
    prefilled = prefilled_of(events)
    assert prefilled.cached_tokens == 0, "of what is cached nobody knows the logits"
    assert bench.engine.evaluated[:5] == [[byte] for byte in "012é".encode()]
    chosen = [entry.chosen for entry in prefilled.echo_logprobs]
    assert b"".join(each.bytes for each in chosen).decode() == "012é"
    # Of a prompt the echo engine expects nothing, but an end.
    assert [each.logprob for each in chosen] == [None, *[-9999.0] * 4]
    assert [entry.top[0].raw for entry in prefilled.echo_logprobs[1:]] == ["<end>"] * 4
    told = [entry for event in events if isinstance(event, Delta) for entry in event.logprobs]
    assert [(entry.chosen.raw, entry.chosen.logprob) for entry in told] == [("0", 0.0), ("1", 0.0)]


def test_an_embedding_is_of_the_prompt_and_of_length_one() -> None:
    bench = Bench(n_ctx=4)
    events = bench.run(generate("abcd", embeds=True))
    finished = last(events)
    assert kinds(events) == [Prefilled, Finished]
    assert (finished.finish_reason, finished.completion_tokens) == ("stop", 0)
    numbers = np.frombuffer(base64.b64decode(finished.embedding), "<f4")
    expected = np.zeros(16)
    expected[[1, 2, 3, 4]] = 0.5
    assert numbers.tolist() == expected.tolist()
    assert last(bench.run(generate("abc", request_id="s", max_tokens=1))).embedding == ""


@given(
    st.text("ab{}", min_size=1, max_size=8),
    st.integers(0, 12),
    st.booleans(),
    st.sampled_from([None, 0, 3]),
    st.sampled_from([None, grammar(regex="[ab{}]*"), grammar(regex="b{0,3}a?")]),
    st.sampled_from([(), ("ab",), ("}", "b{a")]),
    st.integers(0, 3),
)
def test_all_tokens_are_told_of_whatever_is_asked_for(
    prompt: str,
    max_tokens: int,
    echoes: bool,
    logprobs: int | None,
    bound_to: Grammar | None,
    stop: tuple[str, ...],
    chunk: int,
) -> None:
    events = Bench(chunk=chunk + 1).run(
        generate(
            prompt,
            max_tokens=max_tokens,
            echoes_from=0 if echoes else None,
            logprobs=logprobs,
            grammar=bound_to,
            stop=stop,
        )
    )
    finished = last(events)
    deltas = [event for event in events if isinstance(event, Delta)]
    told = [entry.chosen.raw for delta in deltas for entry in delta.logprobs]
    text = text_of(events)
    assert finished.completion_tokens <= max_tokens
    told_of_prompt = "".join(each.chosen.raw for each in prefilled_of(events).echo_logprobs)
    assert told_of_prompt == (prompt if echoes and logprobs is not None else "")
    assert "".join(told) == ("" if logprobs is None else text)
    assert all(delta.text or delta.logprobs for delta in deltas)
    assert not any(each in text for each in stop)
    if bound_to is None and not any(each in prompt[:max_tokens] for each in stop):
        assert text == prompt[:max_tokens]
