"""Tests of the search for the library's buffers, and of giving them back."""

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.serving import ROOT
from worker.engines.scratch import _difference


def test_finds_new_blocks_and_those_that_nobody_has_written_to() -> None:
    in_fresh_process("finds_blocks")


def test_rest_gives_the_memory_of_a_chunk_back(demo_model: Path) -> None:
    in_fresh_process("gives_back", str(demo_model))


def in_fresh_process(*arguments: str) -> None:
    """Run a check of `fresh_process_checks`: in ours, freed memory may take in any block."""
    command = [sys.executable, "-m", "tests.unit.worker.fresh_process_checks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@given(*[st.lists(st.integers(0, 60), max_size=12, unique=True).map(sorted)] * 2)
def test_difference_is_that_of_the_addresses(now: list[int], before: list[int]) -> None:
    def ranges(bounds: list[int]) -> list[range]:
        return [range(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=False)]

    def addresses(pieces: list[range]) -> list[int]:
        return [address for piece in pieces for address in piece]

    pieces = list(_difference(ranges(now), ranges(before)))
    expected = set(addresses(ranges(now))) - set(addresses(ranges(before)))
    assert addresses(pieces) == sorted(expected)
    assert all(pieces)
