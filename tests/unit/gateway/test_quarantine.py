"""Tests of what is remembered of requests that kill workers, and of how a death is judged."""

import signal
from dataclasses import replace

import pytest

from gateway.pool.death import Cause, Death
from gateway.pool.quarantine import Quarantine
from shared.messages import Generate
from shared.sampling import SamplingParams
from tests.unit.gateway.schedules import request

BAD = request("1", "bad")


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
