"""Tests of the schedule: what waits on purpose, and which workers are replaced."""

import pytest

from gateway.pool.estimates import Estimates
from gateway.pool.jobs import Renew
from gateway.pool.prefix import Prefix
from gateway.pool.scheduler import Scheduler
from tests.unit.gateway.schedules import SYSTEM, request, scheduler, started, waiting, with_caches

# ---- waiting for a worker


def busy_with_a_talk(**expected: float) -> Scheduler:
    """Worker 0 runs a generation after a long prompt, since 0 s; worker 1 is free."""
    made = scheduler(2)
    made.estimates = Estimates(**expected)
    made.submit(request("first", SYSTEM))
    assert started(made) == [("first", 0)]
    return made


def test_a_generation_waits_for_a_busy_worker_if_that_is_faster() -> None:
    made = busy_with_a_talk(completion_tokens=10)
    # The prefill of 5.8 s is nearly over, 10 tokens take 150 ms.
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made, now_s=5.7) == []
    assert made.patience_s == pytest.approx(5.8, abs=0.01)
    made.submit(request("other", "Something else"))
    assert started(made, now_s=5.7) == [("other", 1)]
    made.finish("first", tuple(b"Yes."))
    assert started(made, now_s=6.0) == [("second", 0)]
    assert made.patience_s is None


def test_it_does_not_wait_for_what_takes_longer_than_to_start_cold() -> None:
    made = busy_with_a_talk(completion_tokens=10)
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made, now_s=0.0) == [("second", 1)]
    made = busy_with_a_talk(completion_tokens=1000)
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made, now_s=5.7) == [("second", 1)]


def test_a_limit_of_tokens_shortens_the_wait() -> None:
    made = scheduler(2)
    made.estimates = Estimates(completion_tokens=1000)
    made.submit(request("first", SYSTEM, max_tokens=10))
    assert started(made) == [("first", 0)]
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made, now_s=5.7) == []


def test_it_does_not_wait_for_longer_than_it_can_gain() -> None:
    made = busy_with_a_talk(completion_tokens=10)
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made, now_s=5.7) == []
    # What was to end at 6 s has not ended, and may take as long again.
    assert started(made, now_s=7.0) == []
    assert made.patience_s == pytest.approx(4.5, abs=0.01)
    assert started(made, now_s=11.6) == [("second", 1)]


def test_one_waits_for_each_busy_worker() -> None:
    made = busy_with_a_talk(completion_tokens=10)
    for request_id in ("second", "third"):
        made.submit(request(request_id, SYSTEM + request_id))
    assert started(made, now_s=5.7) == [("third", 1)]
    assert waiting(made) == ["second"]
    # It goes away, and another may wait in its place.
    assert made.withdraw("second")
    made.add_worker(2)
    made.slots = 3
    made.submit(request("fourth", SYSTEM + "fourth"))
    assert started(made, now_s=5.7) == []


# ---- workers that are born with a prefix


def test_a_worker_is_replaced_if_a_new_one_is_born_with_the_prompt() -> None:
    made = with_caches("one", "two")
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    made.submit(request("next", SYSTEM + "Hi"))
    assert made.next(0.0) == Renew(0)
    # The new one is waited for, but not for ever.
    assert made.next(0.0) is None
    assert made.patience_s == pytest.approx(0.8)
    made.remove_worker(0)
    made.add_worker(0, made.newborn)
    assert started(made, now_s=0.1) == [("next", 0)]
    assert made.evictions == 1


def test_a_worker_that_does_not_come_is_not_waited_for_without_end() -> None:
    made = with_caches("one", "two")
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    made.submit(request("next", SYSTEM + "Hi"))
    assert made.next(0.0) == Renew(0)
    assert made.next(0.0) is None
    made.remove_worker(0)
    assert started(made, now_s=0.7) == []
    # Another one is tried, and then the time is over.
    assert made.next(0.8) == Renew(1)
    made.remove_worker(1)
    made.add_worker(2)
    assert started(made, now_s=5.0) == []
    assert started(made, now_s=5.8) == [("next", 2)]


def test_no_more_workers_are_replaced_than_may_run() -> None:
    made = with_caches("one", "two", "three", "four", slots=2)
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    for request_id in "abcd":
        made.submit(request(request_id, SYSTEM + request_id))
    assert [made.next(0.0) for _ in range(3)] == [Renew(0), Renew(1), None]
    made.add_worker(1, made.newborn)
    made.add_worker(0, made.newborn)
    assert started(made, now_s=0.1) == [("a", 1), ("b", 0)]
    assert waiting(made) == ["c", "d"]


def test_unused_workers_are_replaced_first() -> None:
    made = with_caches("one")
    made.slots = 2
    made.add_worker(1)
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    made.submit(request("next", SYSTEM + "Hi"))
    assert made.next(0.0) == Renew(1)
    assert made.evictions == 0


def test_a_short_prefix_is_no_reason_to_replace_a_worker() -> None:
    made = with_caches("one", "two")
    made.newborn = Prefix(tuple(b"short"))
    made.submit(request("next", "short and sweet"))
    assert started(made) == [("next", 0)]


def test_unused_workers_of_an_older_template_are_renewed_one_by_one() -> None:
    made = with_caches("used")
    made.add_worker(1)
    made.add_worker(2)
    assert made.renew_blank() is None
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    assert made.renew_blank() == Renew(1)
    assert made.renew_blank() == Renew(2)
    assert made.renew_blank() is None
    made.add_worker(1, made.newborn)
    assert made.renew_blank() is None


def test_an_evicted_worker_of_an_older_template_is_replaced() -> None:
    """So that the older template goes, too."""
    made = with_caches(SYSTEM + "A talk.", SYSTEM + "Another talk.")
    made.newborn = Prefix(tuple(SYSTEM.encode()))
    made.submit(request("next", SYSTEM + "Hi"))
    assert made.next(0.0) == Renew(0)
    # But not for a conversation that goes on.
    made.submit(request("more", SYSTEM + "Another talk. And so on."))
    assert started(made) == [("more", 1)]
