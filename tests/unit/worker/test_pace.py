"""Tests of the room that prompts have beside what decodes, with made times."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pace import Pace, in_turn

CHUNK = 63


def by_rows(rows: int) -> float:
    """A machine whose cores are what is short: 10 ms a row."""
    return 0.002 + 0.010 * rows


def by_weights(rows: int) -> float:
    """One where the weights have to be read: 40 ms, and little for each row."""
    return 0.040 + 0.001 * rows


def with_a_step(rows: int) -> float:
    """One whose kernels for a few rows are worse than that for one."""
    return 0.010 if rows == 1 else 0.020 + 0.005 * rows


MACHINES = [by_rows, by_weights, with_a_step]
Machine = Callable[[int], float]


def steps(pace: Pace, machine: Machine, n_decoding: int, n: int) -> list[tuple[int, float]]:
    """Of each step the rows of prompts, which never end, and the seconds."""
    seen = []
    for _ in range(n):
        room = pace.room(n_decoding)
        n_prompt = CHUNK if room is None else min(room, CHUNK)
        seen.append((n_prompt, machine(n_decoding + n_prompt)))
        pace.learn(n_decoding, *seen[-1])
    return seen


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("n_decoding", [1, 3, 8])
def test_a_gap_is_bounded_and_the_room_is_used(machine: Machine, n_decoding: int) -> None:
    pace = Pace()
    assert [rows for rows, _ in steps(pace, machine, 0, 3)] == [CHUNK] * 3
    usual = machine(n_decoding)
    seen = steps(pace, machine, n_decoding, 400)
    assert all(rows == 0 or took > usual for rows, took in seen)
    least = max(usual * 2.5, machine(n_decoding + 1))  # of a row at least each prompt is sure
    assert max(took for _, took in seen[20:]) <= least
    # What the gap would allow is used, but for the steps that show what is usual.
    best = max(
        (r for r in range(1, CHUNK + 1) if machine(n_decoding + r) <= 2.3 * usual), default=1
    )
    assert median(rows for rows, _ in seen[20:]) >= 0.7 * best
    assert sum(rows == 0 for rows, _ in seen) <= 1 + 400 / 32


def test_each_prompt_goes_on_however_slow_a_row_is() -> None:
    pace = Pace()
    seen = steps(pace, lambda rows: 0.01 if rows == 1 else 1.0, 1, 100)
    assert {rows for rows, _ in seen} == {0, 1}


def test_a_step_that_something_else_has_held_up_is_forgotten() -> None:
    pace = Pace()
    before = steps(pace, by_rows, 4, 60)[-1]
    pace.learn(4, before[0], 3.0)
    pace.learn(4, 0, 3.0)
    assert pace.room(4) == 1
    assert steps(pace, by_rows, 4, 60)[-1] == before


def test_a_machine_that_gets_slower_is_noticed() -> None:
    pace = Pace()
    steps(pace, by_weights, 4, 60)
    seen = steps(pace, by_rows, 4, 400)
    assert seen[-1][1] <= 2.5 * by_rows(4)


def test_steps_that_nobody_notices_have_no_bound() -> None:
    pace = Pace()
    assert steps(pace, lambda rows: 1e-6 * rows, 3, 40)[-1][0] == CHUNK


@dataclass
class Prompt:
    arrived_s: float
    n: int
    pending: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.pending = [0] * self.n


prompts_at_times = st.lists(st.builds(Prompt, st.floats(0, 20), st.integers(2, 50)), max_size=12)


@given(prompts_at_times)
def test_the_oldest_waits_for_nobody_who_came_much_later(prompts: list[Prompt]) -> None:
    turns = in_turn(prompts)
    assert sorted(map(id, turns)) == sorted(map(id, prompts))
    for n, prompt in enumerate(turns):
        later = turns[n + 1 :]
        assert all(prompt.arrived_s <= other.arrived_s + 2 for other in later)
    together = [each for each in turns if each.arrived_s <= min(p.arrived_s for p in turns) + 2]
    assert turns[: len(together)] == together
    assert [each.n for each in together] == sorted(each.n for each in together)
