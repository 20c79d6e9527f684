"""Tests of the way from token bytes to text."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.text.detokenizer import Detokenizer


def split(raw: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    return [raw[a:b] for a, b in pairwise(bounds)]


def joined(pieces: list[bytes]) -> str:
    detokenizer = Detokenizer()
    return "".join(map(detokenizer.push, pieces)) + detokenizer.flush()


@given(st.text(), st.lists(st.integers(0, 60)))
@example("é日🙂\0\n", list(range(20)))
def test_any_split_gives_the_whole_text(text: str, cuts: list[int]) -> None:
    assert joined(split(text.encode(), cuts)) == text


@given(st.binary(max_size=30), st.lists(st.integers(0, 30)))
@example(b"\xf0\x9f\x99", [1, 2])
@example(b"\xed\xa0\x80", [1])
def test_any_split_of_any_bytes_gives_the_same(raw: bytes, cuts: list[int]) -> None:
    assert joined(split(raw, cuts)) == raw.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\x80", "\ufffd"),
        (b"\xe2\x82A", "\ufffdA"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
    ],
)
def test_invalid_bytes_are_replaced_at_once(raw: bytes, text: str) -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push(raw) == text
    assert detokenizer.flush() == ""


def test_control_tokens_leave_an_unfinished_character_alone() -> None:
    first, rest = "é".encode()[:1], "é".encode()[1:]
    assert joined([first, b"", rest]) == "é"
