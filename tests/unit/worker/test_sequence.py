"""Tests of the state of one generation."""

from shared.messages import Generate
from shared.sampling import SamplingParams
from worker.sequence import Sequence


def sequence(
    prompt: list[int] | None = None,
    cached: int = 0,
    budget: int = 100,
    stop: tuple[str, ...] = (),
) -> Sequence:
    request = Generate("r", (), SamplingParams(temperature=0.0), stop=stop)
    return Sequence(request, [1, 2, 3] if prompt is None else prompt, cached, budget)


def test_pending_is_what_the_cache_lacks() -> None:
    begun = sequence([5, 6, 7, 8], cached=3)
    assert (begun.prompt_tokens, begun.cached_tokens, begun.pending) == (4, 3, [8])


def test_chunks_are_taken_in_order() -> None:
    begun = sequence(list(range(10)))
    assert [begun.take_chunk(4) for _ in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]


def test_a_generated_token_is_evaluated_next() -> None:
    begun = sequence()
    begun.take_chunk(99)
    assert begun.append(65, b"A") == ("A", None)
    assert (begun.pending, begun.completion_tokens, begun.unreported_tokens) == ([65], 1, 1)


def test_ends_at_the_budget() -> None:
    begun = sequence(budget=2)
    begun.take_chunk(99)
    assert begun.append(65, b"A") == ("A", None)
    begun.take_chunk(99)
    assert begun.append(66, b"B") == ("B", "length")
    assert begun.pending == []


def test_ends_before_a_stop_string() -> None:
    begun = sequence(stop=("BC",))
    assert begun.append(65, b"A") == ("A", None)
    assert begun.append(66, b"B") == ("", None)
    assert begun.append(67, b"C") == ("", "stop")
    assert begun.completion_tokens == 3


def test_a_stop_string_at_the_budget_is_a_stop() -> None:
    begun = sequence(budget=1, stop=("B",))
    assert begun.append(65, b"AB") == ("A", "stop")


def test_what_was_held_back_is_released_at_the_budget() -> None:
    begun = sequence(budget=2, stop=("BCD",))
    assert begun.append(65, b"AB") == ("A", None)
    assert begun.append(67, b"C") == ("BC", "length")


def test_what_was_held_back_is_released_at_the_end() -> None:
    begun = sequence(stop=("BCD",))
    assert begun.append(65, b"AB") == ("A", None)
    assert begun.end() == ("B", None)


def test_an_unfinished_character_may_complete_a_stop_string() -> None:
    begun = sequence(stop=("\ufffd",))
    assert begun.append(0, b"A\xf0\x9f") == ("A", None)
    assert begun.end() == ("", "stop")
    begun = sequence(budget=1, stop=("\ufffd",))
    assert begun.append(0, b"A\xf0\x9f") == ("A", "stop")


def test_laps_follow_each_other() -> None:
    begun = sequence()
    first, second = begun.lap_ms(), begun.lap_ms()
    assert first >= 0
    assert second >= 0
