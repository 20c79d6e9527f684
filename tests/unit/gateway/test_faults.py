"""Tests of who is to blame for a death, what runs again, and what is remembered of it."""

import signal
from dataclasses import replace

import pytest

from gateway.pool.base import DEFAULT_TERMS, Terms
from gateway.pool.deaths import Cause, Death
from gateway.pool.faults import MOST_KILLS, Quarantine, end_after
from gateway.pool.job import Job
from shared.errors import ErrorCode
from shared.messages import Delta, Generate
from shared.sampling import SamplingParams


def request(request_id: str, prompt: str = "", max_tokens: int | None = None) -> Generate:
    return Generate(request_id, tuple(map(ord, prompt)), max_tokens=max_tokens)


BAD = request("1", "bad")
CRASH = Death.of(-signal.SIGSEGV)
KILL = Death.of(-signal.SIGKILL)


def job(terms: Terms = DEFAULT_TERMS) -> Job:
    return Job(BAD, terms)


def test_a_crash_says_little_about_each_of_several() -> None:
    quarantine, jobs = Quarantine(), [job() for _ in range(4)]
    for each in jobs:
        assert end_after(CRASH, each, False, quarantine, 0.0) is None
        each.begin_anew()
        assert each.is_alone
    assert not quarantine.holds(BAD, 1.0)
    # One dies alone: that is proof, of the one.
    error = end_after(CRASH, jobs[0], True, quarantine, 1.0)
    assert error is not None and error[0] is ErrorCode.WORKER_CRASHED
    assert quarantine.holds(BAD, 2.0)


def test_a_crash_of_one_alone_is_forgiven_once() -> None:
    quarantine, one = Quarantine(), job()
    assert end_after(CRASH, one, True, quarantine, 0.0) is None
    assert end_after(CRASH, one, True, quarantine, 0.0) is not None
    assert quarantine.total == 1


def test_who_has_seen_text_does_not_see_it_again() -> None:
    for is_whole in (False, True):
        begun = job(Terms(is_whole))
        begun.put_delta(Delta("1", "x", 1))
        error = end_after(KILL, begun, False, Quarantine(), 0.0)
        assert (error is None) is is_whole


def test_kills_from_outside_are_nobodys_fault_but_end() -> None:
    quarantine, one = Quarantine(), job()
    for _ in range(MOST_KILLS):
        assert end_after(KILL, one, True, quarantine, 0.0) is None
        one.begin_anew()
        assert not one.is_alone
    error = end_after(KILL, one, True, quarantine, 0.0)
    assert error is not None and error[0] is ErrorCode.MODEL_UNAVAILABLE
    assert quarantine.total == 0


def test_the_second_death_of_one_generation_puts_a_request_into_quarantine() -> None:
    quarantine = Quarantine()
    quarantine.note_death(BAD, 0.0, is_proof=False)
    assert not quarantine.holds(BAD, 1.0)
    quarantine.note_death(BAD, 1.0, is_proof=True)
    assert quarantine.holds(replace(BAD, request_id="2", trace_id="x"), 2.0)
    quarantine.note_death(BAD, 3.0, is_proof=True)
    assert quarantine.total == 1


def test_so_does_the_third_of_different_ones() -> None:
    quarantine = Quarantine()
    for now_s in (0.0, 1.0):
        quarantine.note_death(BAD, now_s, is_proof=False)
    assert not quarantine.holds(BAD, 2.0)
    quarantine.note_death(BAD, 2.0, is_proof=False)
    assert quarantine.holds(BAD, 3.0)
    assert quarantine.total == 1


def test_it_ends() -> None:
    quarantine = Quarantine()
    quarantine.note_death(BAD, 10.0, is_proof=True)
    assert quarantine.holds(BAD, 309.0)
    assert not quarantine.holds(BAD, 310.0)
    for now_s in (310.0, 311.0):
        quarantine.note_death(BAD, now_s, is_proof=False)
    assert not quarantine.holds(BAD, 312.0), "it begins anew"


def test_success_ends_the_suspicion() -> None:
    quarantine = Quarantine()
    for now_s in (0.0, 1.0):
        quarantine.note_death(BAD, now_s, is_proof=False)
    quarantine.note_success(BAD)
    quarantine.note_death(BAD, 2.0, is_proof=False)
    assert not quarantine.holds(BAD, 3.0)


@pytest.mark.parametrize(
    "other",
    [
        request("1", "good"),
        request("1", "bad", max_tokens=1),
        Generate("1", tuple(b"bad"), stop=("x",)),
        Generate("1", tuple(b"bad"), SamplingParams(seed=7)),
    ],
)
def test_another_request_is_not_held(other: Generate) -> None:
    quarantine = Quarantine()
    quarantine.note_death(BAD, 0.0, is_proof=True)
    assert not quarantine.holds(other, 2.0)


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    quarantine = Quarantine()
    for number in range(300):
        quarantine.note_death(request("1", str(number)), 0.0, is_proof=True)
    held = [n for n in range(300) if quarantine.holds(request("1", str(n)), 2.0)]
    assert held == list(range(44, 300))
    assert quarantine.total == 300


@pytest.mark.parametrize(
    ("exitcode", "cause"),
    [
        (0, Cause.CRASHED),
        (1, Cause.CRASHED),
        (-signal.SIGSEGV, Cause.CRASHED),
        (-signal.SIGABRT, Cause.CRASHED),
        (-signal.SIGBUS, Cause.CRASHED),
        (-signal.SIGFPE, Cause.CRASHED),
        (-signal.SIGILL, Cause.CRASHED),
        (-signal.SIGKILL, Cause.KILLED),
        (-signal.SIGTERM, Cause.KILLED),
        (None, Cause.KILLED),
    ],
)
def test_who_is_to_blame(exitcode: int | None, cause: Cause) -> None:
    death = Death.of(exitcode)
    assert death.cause is cause
    assert death.is_external == (cause is Cause.KILLED)


def test_a_death_in_words() -> None:
    assert Death.of(-signal.SIGSEGV).why == "was killed by SIGSEGV"
    assert Death.of(3).why == "died (exit status 3)"
