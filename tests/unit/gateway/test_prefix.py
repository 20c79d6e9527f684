"""Tests of the common prefix of two texts."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pool.prefix import shared_prefix_length


def slow(a: str, b: str) -> int:
    """Character by character."""
    for n, (of_a, of_b) in enumerate(zip(a, b, strict=False)):
        if of_a != of_b:
            return n
    return min(len(a), len(b))


texts = st.text("ab🙂", max_size=30)


@given(texts, texts, texts)
@example("", "", "")
@example("a", "", "")
@example("a" * 1000, "b", "")
def test_agrees_with_the_slow_way(common: str, a: str, b: str) -> None:
    a, b = common + a, common + b
    assert shared_prefix_length(a, b) == slow(a, b)
