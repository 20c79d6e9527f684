"""What two sequences of tokens have in common."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pool.prefix import BLOCK, EMPTY, Prefix

Ids = tuple[int, ...]


def slow(a: Ids, b: Ids) -> int:
    for n, (of_a, of_b) in enumerate(zip(a, b, strict=False)):
        if of_a != of_b:
            return n
    return min(len(a), len(b))


ids = st.lists(st.sampled_from([1, 2, 150_000]), max_size=30).map(tuple)
# Some shorter than a block, some longer than several.
common = st.builds(lambda some, n: some * n, ids, st.integers(0, 3 * BLOCK // 10))


@given(common, ids, ids)
@example((), (), ())
@example((), (1,), ())
@example((1,) * BLOCK, (), ())
@example((1,) * BLOCK, (2,), (1,) * BLOCK)
@example((1,) * 10 * BLOCK, (2,), ())
def test_agrees_with_the_slow_way(common: Ids, a: Ids, b: Ids) -> None:
    a, b = common + a, common + b
    assert Prefix(a).shared_length(Prefix(b)) == slow(a, b)


@given(common, ids, common)
def test_what_was_generated_belongs_to_it(prompt: Ids, generated: Ids, more: Ids) -> None:
    longer = Prefix(prompt).followed_by(generated)
    assert (longer.ids, longer.prompt_length) == (prompt + generated, len(prompt))
    assert len(longer) == len(prompt) + len(generated)
    other = Prefix(prompt + more)
    assert longer.shared_length(other) == slow(longer.ids, other.ids)
    assert longer.shared_length(Prefix(longer.ids)) == len(longer)


def test_a_difference_before_equal_blocks_is_seen() -> None:
    same = (7,) * 5 * BLOCK
    assert Prefix((1, *same)).shared_length(Prefix((2, *same))) == 0


def test_nothing() -> None:
    assert len(EMPTY) == 0
    assert EMPTY.shared_length(Prefix((1, 2))) == 0
