"""Tests of the common prefix of two texts."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pool.prefix import BLOCK, EMPTY, Prefix, shared_prefix_length


def slow(a: str, b: str) -> int:
    """Character by character."""
    for n, (of_a, of_b) in enumerate(zip(a, b, strict=False)):
        if of_a != of_b:
            return n
    return min(len(a), len(b))


texts = st.text("ab🙂", max_size=30)
common = st.builds(str.__mul__, texts, st.integers(0, 3 * BLOCK // 10))
"""Some shorter than a block, some longer than several."""


@given(common, texts, texts)
@example("", "", "")
@example("", "a", "")
@example("a" * BLOCK, "", "")
@example("a" * BLOCK, "b", "a" * BLOCK)
@example("a" * 10 * BLOCK, "b", "")
def test_agrees_with_the_slow_way(common: str, a: str, b: str) -> None:
    a, b = common + a, common + b
    assert shared_prefix_length(a, b) == slow(a, b)
    assert Prefix(a).shared_length(Prefix(b)) == slow(a, b)


@given(common, texts, common)
def test_what_was_generated_belongs_to_the_text(prompt: str, generated: str, more: str) -> None:
    longer = Prefix(prompt).followed_by(generated)
    assert (longer.text, longer.prompt_length) == (prompt + generated, len(prompt))
    assert len(longer) == len(prompt) + len(generated)
    other = Prefix(prompt + more)
    assert longer.shared_length(other) == slow(longer.text, other.text)
    assert longer.shared_length(Prefix(longer.text)) == len(longer)


def test_a_difference_before_equal_blocks_is_seen() -> None:
    same = "x" * 5 * BLOCK
    assert Prefix("a" + same).shared_length(Prefix("b" + same)) == 0


def test_nothing() -> None:
    assert len(EMPTY) == 0
    assert EMPTY.shared_length(Prefix("abc")) == 0
