"""Tests of the decode loop with several slots: any order of commands, failures of one of many."""

import math
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.messages import Cancel, Failed, Finished, Prefilled
from tests.unit.worker.loops import Bench, Idle, end_of, generate, text_of

SLOTS = 4


def bench_of_four() -> Bench:
    return Bench(n_ctx=64, chunk=5, slots=SLOTS)


def test_all_slots_share_each_evaluation_and_each_write() -> None:
    bench = bench_of_four()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("abcd")]
    bench.run()
    for name, letter in zip(names, "abcd", strict=True):
        assert text_of(bench.of(name)) == letter * 3
    # Two batches of prompts, eight tokens at most, then three steps of decoding and the end.
    sizes = [sum(len(part.tokens) for part in batch) for batch in bench.engine.batches]
    assert max(sizes) <= 8
    assert len(bench.batches) <= len(bench.engine.batches) + 1
    assert max(len({event.request_id for event in write}) for write in bench.batches) == 4


def test_those_that_decode_go_before_prompts() -> None:
    bench = bench_of_four()
    bench.start(0, "abcd")
    bench.loop.step()
    bench.start(1, "x" * 20)
    bench.loop.step()  # to see what a step takes without the prompt
    bench.loop.step()
    (alone,), (first, second) = bench.engine.batches[-2:]
    assert alone.slot == first.slot == 0
    assert (len(first.tokens), first.wants_logits) == (1, True)
    assert (second.slot, second.wants_logits) == (1, False) and 1 <= len(second.tokens) <= 5


def test_a_prefix_is_copied_from_another_slot() -> None:
    bench = bench_of_four()
    bench.start(0, "the same beginning")
    bench.run()
    name = bench.start(3, "the same beginning, and more")
    bench.run()
    prefilled = bench.of(name)[0]
    assert isinstance(prefilled, Prefilled)
    assert prefilled.cached_tokens == len("the same beginning")
    assert text_of(bench.of(name)) == "the same beginning, and more"


def test_an_evaluation_that_fails_ends_only_the_one_at_fault() -> None:
    bench = bench_of_four()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("abcd")]
    bench.engine.bad_slots = {2}
    bench.run()
    ends = [end_of(bench.of(name)) for name in names]
    assert [type(end) for end in ends] == [Finished, Finished, Failed, Finished]
    assert [text_of(bench.of(name)) for name in names] == ["aaa", "bbb", "", "ddd"]


def test_logits_of_one_slot_that_are_no_numbers_end_only_that() -> None:
    bench = bench_of_four()
    names = [bench.start(slot, letter * 3) for slot, letter in enumerate("ab")]
    bench.engine.ill_slots = {0: math.nan}
    bench.run()
    failed = end_of(bench.of(names[0]))
    assert isinstance(failed, Failed) and "not finite" in failed.message
    assert text_of(bench.of(names[1])) == "bbb"


def test_a_slot_that_is_taken_is_no_place_for_another() -> None:
    bench = bench_of_four()
    first, second = bench.start(0, "aaa"), bench.start(0, "bbb")
    bench.run()
    assert isinstance(end_of(bench.of(second)), Failed)
    assert text_of(bench.of(first)) == "aaa"


steps = st.tuples(
    st.sampled_from(["start", "start", "cancel", "break", "mend", "step", "step"]),
    st.integers(0, SLOTS - 1),
    st.text("ab", min_size=1, max_size=12),
)


@settings(max_examples=200, deadline=None)
@given(script=st.lists(steps, max_size=40))
def test_each_generation_has_one_end_and_its_own_text(script: list[tuple[str, int, str]]) -> None:
    bench, number = bench_of_four(), 0
    texts: dict[str, str] = {}
    running: dict[int, str] = {}
    cancelled: set[str] = set()
    may_fail: set[str] = set()

    def note_ends() -> None:
        for slot, name in list(running.items()):
            if any(isinstance(event, Finished | Failed) for event in bench.of(name)):
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
            bench.inbox.put(generate(text, name, slot=slot))
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
        events = bench.of(name)
        last = end_of(events)
        assert sum(isinstance(event, Finished | Failed) for event in events) == 1
        if isinstance(last, Failed):
            assert name in may_fail
        elif last.finish_reason == "cancelled":
            assert name in cancelled
            assert text.startswith(text_of(events))
        else:
            assert text_of(events) == text
            assert last.ids == tuple(text.encode())


def test_a_prompt_whose_logits_are_wanted_is_evaluated_whatever_other_slots_have() -> None:
    bench = Bench(slots=2)
    bench.run(generate("hello", "first"))
    prefilled, *_ = bench.run(generate("hello", "second", slot=1, logprobs=1, echoes_from=0))
    assert isinstance(prefilled, Prefilled) and prefilled.cached_tokens == 0
    assert [each.chosen.raw for each in prefilled.echo_logprobs] == [*"hello"]
