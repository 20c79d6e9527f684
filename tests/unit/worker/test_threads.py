"""The choice of threads, with a clock of the test's own."""

import pytest

from worker.threads import ThreadShare


def test_uses_its_share_while_the_cores_are_free() -> None:
    threads = ThreadShare(4)
    for step in range(100):
        now = step * 0.01
        assert threads.choose(now) == 4
        threads.learn(4, 0.01, 0.039, now)
    threads.set_share(2, 1.0, is_running=True)
    assert threads.choose(1.0) == 2


def test_crowded_cores_are_left_for_as_long_as_the_loss_asks_for() -> None:
    threads = ThreadShare(2)
    threads.learn(2, wall_s=2.0, cpu_s=2.0, now_s=10.0)  # two threads had one core: 1 s lost
    assert threads.choose(10.0) == 1
    assert threads.choose(29.9) == 1
    assert threads.choose(30.0) == 2


def test_a_small_loss_is_a_small_pause() -> None:
    threads = ThreadShare(2)
    threads.learn(2, wall_s=0.03, cpu_s=0.04, now_s=0.0)
    assert threads.choose(0.1) == 1
    assert threads.choose(0.21) == 2


def test_a_pause_has_an_end() -> None:
    threads = ThreadShare(2)
    threads.learn(2, wall_s=100.0, cpu_s=100.0, now_s=0.0)
    assert threads.choose(59.9) == 1
    assert threads.choose(60.0) == 2


def test_what_nobody_would_notice_is_let_pass() -> None:
    threads = ThreadShare(2)
    threads.learn(2, wall_s=0.004, cpu_s=0.0, now_s=0.0)
    assert threads.choose(0.0) == 2


@pytest.mark.parametrize(("cpu_s", "fitting"), [(2.9, 2), (1.9, 1), (0.4, 1)])
def test_keeps_as_many_threads_as_had_a_core(cpu_s: float, fitting: int) -> None:
    threads = ThreadShare(4)
    threads.learn(4, wall_s=1.0, cpu_s=cpu_s, now_s=0.0)
    assert threads.choose(0.5) == fitting
    threads.set_share(1, 0.5, is_running=True)
    assert threads.choose(0.5) == 1


def test_one_thread_teaches_nothing() -> None:
    threads = ThreadShare(2)
    threads.learn(1, wall_s=1.0, cpu_s=0.1, now_s=0.0)
    assert threads.choose(0.0) == 2


def test_more_threads_are_taken_when_nobody_else_has_taken_them() -> None:
    threads = ThreadShare(1)
    threads.set_share(4, now_s=1.0, is_running=True)
    assert not threads.is_one_thread
    assert threads.choose(1.0) == 1
    assert threads.choose(1.049) == 1
    assert threads.choose(1.051) == 4
    assert threads.choose(1.0) == 4


def test_threads_that_are_taken_back_in_time_were_never_used() -> None:
    threads = ThreadShare(1)
    threads.set_share(2, now_s=1.0, is_running=True)
    assert threads.choose(1.02) == 1
    threads.set_share(1, now_s=1.03, is_running=True)
    assert threads.is_one_thread
    assert threads.choose(9.0) == 1


def test_fewer_threads_are_used_at_once_whatever_was_to_come() -> None:
    threads = ThreadShare(3)
    threads.set_share(4, now_s=1.0, is_running=True)
    assert threads.choose(1.0) == 3
    threads.set_share(2, now_s=1.01, is_running=True)
    assert [threads.choose(now_s) for now_s in (1.01, 2.0)] == [2, 2]


def test_a_generation_that_begins_takes_its_threads_at_once() -> None:
    threads = ThreadShare(1)
    threads.set_share(2, now_s=1.0, is_running=False)
    assert threads.choose(1.0) == 2
