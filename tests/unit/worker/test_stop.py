"""Tests of the search for stop strings across pieces."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from worker.text.stop import StopMatcher


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    """What is emitted for each piece, with the flush at the end, and whether a stop was found."""
    matcher = StopMatcher(stops)
    emitted = []
    for piece in pieces:
        text, found = matcher.push(piece)
        emitted.append(text)
        if found:
            return emitted, True
    emitted.append(matcher.flush())
    return emitted, False


def up_to_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The slow reference: read on, character by character, until a stop string is complete."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


letters = st.text("ab\né", max_size=30)
some_stops = st.lists(st.text("ab\né", min_size=1, max_size=4), max_size=4)
cuts = st.lists(st.integers(0, 30), max_size=8)


def split(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


@given(letters, some_stops, cuts)
@example("aabaab", ["aab"], [1, 2, 3, 4, 5])
@example("xabcd", ["ab", "xabcd"], [])
@example("xabcd", ["ab", "xabcd"], [1, 2, 3, 4])
@example("abab\né", ["b\na", "abé", "\né"], [2, 4])
def test_any_split_gives_the_text_up_to_the_first_stop(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    emitted, found = run(split(text, cuts), stops)
    assert ("".join(emitted), found) == up_to_stop(text, stops)


@given(letters, some_stops, cuts)
def test_nothing_of_a_stop_string_is_emitted_early(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    expected, _ = up_to_stop(text, stops)
    emitted, _ = run(split(text, cuts), stops)
    for n in range(len(emitted) + 1):
        assert expected.startswith("".join(emitted[:n]))


@given(letters, some_stops)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    emitted = ""
    for n, letter in enumerate(text, 1):
        piece, found = matcher.push(letter)
        if found:
            return
        emitted += piece
        held = text[len(emitted) : n]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_flush_releases_what_was_held_once() -> None:
    matcher = StopMatcher(["###"])
    assert matcher.push("a##") == ("a", False)
    assert matcher.flush() == "##"
    assert matcher.flush() == ""


def test_the_stop_string_that_ends_first_counts() -> None:
    for pieces in (["1, 2, 3"], list("1, 2, 3")):
        emitted, found = run(pieces, ["1, 2, 3", "2"])
        assert ("".join(emitted), found) == ("1, ", True)
