"""Tests of the schedule: what waits on purpose."""

import pytest

from gateway.pool.estimates import Estimates
from gateway.pool.scheduler import Scheduler
from tests.unit.gateway.schedules import (
    SYSTEM,
    finish,
    request,
    scheduler,
    started,
    waiting,
    withdraw,
)


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
    finish(made, "first", tuple(b"Yes."))
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
    assert withdraw(made, "second")
    made.add_worker(2)
    made.max_running = 3
    made.submit(request("fourth", SYSTEM + "fourth"))
    assert started(made, now_s=5.7) == []


def with_slots(workers: int = 2, slots: int = 2, prefix_cache: int = 0) -> Scheduler:
    made = Scheduler(10, workers * slots, Estimates(), prefix_cache)
    for worker_id in range(workers):
        made.add_worker(worker_id, slots)
    return made


def test_a_prompt_that_is_being_evaluated_is_waited_for_where_it_can_be_copied() -> None:
    made = with_slots()
    made.submit(request("first", SYSTEM))
    assert started(made) == [("first", 0)]
    for request_id in ("second", "third"):
        made.submit(request(request_id, SYSTEM + request_id))
    made.submit(request("other", "Something else"))
    assert started(made, now_s=0.1) == [("other", 1)]
    made.note_prefilled(made.running["first"])
    # The first still runs, and so does what has a copy of its prompt.
    # There is one slot; the prompt of whoever has that one is no longer.
    assert started(made, now_s=3.0) == [("second", 0), ("third", 1)]
    assert made.running["second"].shared == len(SYSTEM)
    assert made.running["third"].shared == 0


def test_what_is_saved_goes_wherever_there_is_room() -> None:
    made = with_slots(slots=3, prefix_cache=1 << 20)
    made.submit(request("first", SYSTEM))
    assert started(made) == [("first", 0)]
    slot, region = made.finish(made.running["first"], (1,) * 40, 70_000)
    assert slot.worker_id == 0 and region is not None and region.size == 70_000
    made.submit(request("other", "x" * 20))
    assert started(made) == [("other", 0)]
    made.submit(request("second", SYSTEM + "And?"))
    assert started(made) == [("second", 0)]
    assert made.running["second"].saved is None, "it is not written yet"
    made.prefixes.settle(region, is_whole=True)
    made.submit(request("third", SYSTEM + "So?", max_tokens=1))
    made.submit(request("fourth", SYSTEM + "So!", max_tokens=1))
    assert started(made) == [("third", 1), ("fourth", 1)]
    for request_id in ("third", "fourth"):
        job = made.running[request_id]
        command = job.command()
        assert command.saved is not None and command.saved.region == region
        assert (command.saved.n_tokens, job.shared) == (len(SYSTEM), len(SYSTEM))
    (entry,) = made.prefixes.entries
    assert entry.readers == [1, 1]
    made.note_prefilled(made.running["third"])
    assert entry.is_pinned
    made.prefixes.forget(1)
    assert not entry.is_pinned
