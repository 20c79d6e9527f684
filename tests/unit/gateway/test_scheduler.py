"""Tests of the schedule: what runs where, and what waits."""

import pytest

from tests.unit.gateway.schedules import (
    SYSTEM,
    finish,
    request,
    scheduler,
    started,
    with_caches,
    withdraw,
)


@pytest.mark.parametrize(
    ("prompt", "worker_id"),
    [("hello world", 1), ("hello", 0), ("help", 0), ("hella", 0), ("abc", 2), ("", 0)],
)
def test_the_longest_shared_prefix_wins(prompt: str, worker_id: int) -> None:
    made = with_caches("hello", "hello w", "ab")
    made.submit(request("next", prompt))
    assert started(made) == [("next", worker_id)]


def test_a_busy_worker_is_not_taken_for_its_cache() -> None:
    made = with_caches("hello", "")
    made.submit(request("a", "hello"))
    made.submit(request("b", "hello"))
    assert started(made) == [("a", 0), ("b", 1)]


def test_ties_go_to_the_least_recently_used() -> None:
    made = with_caches("same", "same", "same")
    made.submit(request("a", "same"))
    assert started(made) == [("a", 0)]
    finish(made, "a", ())
    made.submit(request("b", "same"))
    made.submit(request("c", "same"))
    made.submit(request("d", "same"))
    assert started(made) == [("b", 1), ("c", 2), ("d", 0)]


def test_a_few_shared_characters_are_no_reason_to_lose_a_conversation() -> None:
    made = with_caches("An old talk. " * 20, "A newer talk. " * 20)
    made.submit(request("next", "A new day"))
    assert started(made) == [("next", 0)]
    assert made.evictions == 1


def test_a_worker_that_was_never_used_loses_nothing() -> None:
    made = with_caches("An old talk. " * 20)
    made.max_running = 2
    made.add_worker(1)
    made.submit(request("next", "An old friend"))
    assert started(made) == [("next", 1)]
    assert made.evictions == 0


def test_a_long_prefix_is_worth_a_short_conversation() -> None:
    made = with_caches(SYSTEM + "Hi there")
    made.max_running = 2
    made.add_worker(1)
    made.submit(request("next", SYSTEM + "Good day"))
    assert started(made) == [("next", 0)]
    assert made.evictions == 1


def test_who_asks_again_comes_to_the_same_worker() -> None:
    made = scheduler(2)
    for request_id in "abc":
        made.submit(request(request_id, "Tell me a story."))
        assert started(made) == [(request_id, 0)]
        finish(made, request_id, tuple(b"Once upon a time. " * 10))
    assert made.evictions == 0


def test_parked_conversations_find_their_caches() -> None:
    made = scheduler(5, max_running=2)
    texts = {name: f"{name} is a name. " * 20 for name in "abcd"}
    for turn in range(3):
        for n, name in enumerate(texts):
            request_id = f"{name}{turn}"
            made.submit(request(request_id, texts[name]))
            assert started(made) == [(request_id, n)]
            finish(made, request_id, tuple(b" Indeed."))
            texts[name] += " Indeed. Go on."
    assert made.evictions == 0


def test_a_refused_prompt_leaves_the_cache_as_it_was() -> None:
    made = with_caches("A long talk. " * 20, "")
    made.submit(request("a", "A long talk. " * 20 + "And more."))
    assert started(made) == [("a", 0)]
    finish(made, "a", None)
    made.submit(request("b", "A long talk. " * 20))
    assert started(made) == [("b", 0)]


def test_a_prompt_that_was_cancelled_before_its_end_leaves_what_was_shared() -> None:
    made = with_caches("A long talk. " * 20)
    made.submit(request("a", "A long talk. A new turn. " * 20))
    assert started(made) == [("a", 0)]
    finish(made, "a", None)
    made.submit(request("b", "A long talk. A new turn. " * 20))
    assert started(made) == [("b", 0)]
    (job,) = made.running.values()
    assert job.shared == len("A long talk. A ")


def test_a_cache_that_cannot_be_cut_back_is_worth_nothing_but_to_who_goes_on() -> None:
    made = with_caches("A long talk. " * 20, "An older talk")
    made.prefixes.most_rewound = 0
    made.submit(request("new", "A long talk. " * 19 + "Something else."))
    made.submit(request("more", "A long talk. " * 20 + "And so on."))
    assert started(made) == [("new", 1), ("more", 0)]


def test_the_expected_wait_is_what_waits_and_runs_shared_out_among_all() -> None:
    made = scheduler(2)
    one_s = made.estimates.generation_ms(0, None) / 1000
    assert made.expected_wait_s(0.0) == 0.0
    for number in range(2):
        made.submit(request(str(number)))
    started(made)
    assert made.expected_wait_s(0.0) == pytest.approx(one_s)
    for number in range(2, 6):
        made.submit(request(str(number)))
    assert made.expected_wait_s(0.0) == pytest.approx(3 * one_s)
    assert made.expected_wait_s(0.5) == pytest.approx(3 * one_s - 0.5)
    withdraw(made, "5")
    finish(made, "0", ())
    started(made, 0.5)
    assert made.expected_wait_s(0.5) == pytest.approx(2 * one_s - 0.25)
    for number in range(2, 5):
        withdraw(made, str(number))
    assert made.waiting_ms == 0.0
