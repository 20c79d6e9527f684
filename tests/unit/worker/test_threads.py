"""The choice of threads, with a clock of the test's own."""

import pytest

from worker.threads import ThreadShare


def test_uses_its_share_while_the_cores_are_free() -> None:
    threads = ThreadShare(4)
    for step in range(100):
        now = step * 0.01
        assert threads.choose(now) == 4
        threads.learn(4, 0.01, 0.039, now)
    threads.share = 2
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
    threads.share = 1
    assert threads.choose(0.5) == 1


def test_one_thread_teaches_nothing() -> None:
    threads = ThreadShare(2)
    threads.learn(1, wall_s=1.0, cpu_s=0.1, now_s=0.0)
    assert threads.choose(0.0) == 2
