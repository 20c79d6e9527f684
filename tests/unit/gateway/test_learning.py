"""Tests of the search for a prefix that prompts keep beginning with."""

from gateway.pool.learning import LEAST_TOKENS, Arrival, PrefixLearner
from gateway.pool.prefix import EMPTY, Prefix

CHARS_PER_TOKEN = 4.0
SYSTEM = "You are a helpful assistant. " * 20
OTHER = "Translate into French, please. " * 20


def arrival(text: str) -> Arrival:
    return Arrival(Prefix(text), (text,))


def learn(learner: PrefixLearner, *texts: str, newborn: Prefix = EMPTY) -> list[str]:
    """What comes of the last of these prompts."""
    for text in texts:
        found = learner.learn(arrival(text), newborn, CHARS_PER_TOKEN)
    return [each.prefix.text for each in found]


def test_the_third_prompt_with_the_same_beginning_is_enough() -> None:
    learner = PrefixLearner()
    assert learn(learner, SYSTEM + "one") == []
    assert learn(learner, "something else") == []
    assert learn(learner, SYSTEM + "two") == []
    assert learn(learner, SYSTEM + "three") == [SYSTEM + text for text in ("three", "two", "one")]


def test_a_short_beginning_is_not_worth_it() -> None:
    short = "x" * int(LEAST_TOKENS * CHARS_PER_TOKEN)
    assert learn(PrefixLearner(), *(short[:-1] + letter for letter in "abc")) == []
    assert learn(PrefixLearner(), *(short + letter for letter in "abc")) != []


def test_what_two_alone_have_in_common_is_left_out() -> None:
    found = learn(PrefixLearner(), SYSTEM + "x", SYSTEM + OTHER + "a", SYSTEM + OTHER + "b")
    first, *others = map(Prefix, found)
    assert min(first.shared_length(other) for other in others) == len(SYSTEM)


def test_what_workers_are_born_with_is_not_learned_again() -> None:
    texts = [f"{SYSTEM}{number}" for number in range(9)]
    assert learn(PrefixLearner(), *texts, newborn=Prefix(SYSTEM)) == []
    # A little more is not enough either.
    assert (
        learn(PrefixLearner(), *(f"{SYSTEM} {n}" for n in range(9)), newborn=Prefix(SYSTEM)) == []
    )


def test_a_longer_beginning_takes_its_place() -> None:
    newborn = Prefix(SYSTEM)
    found = learn(PrefixLearner(), *(f"{SYSTEM}{OTHER}{n}" for n in range(3)), newborn=newborn)
    assert len(found) == 3


def test_one_beginning_does_not_displace_another_that_comes_more_often() -> None:
    learner = PrefixLearner()
    learn(learner, *(f"{SYSTEM}{number}" for number in range(10)))
    newborn = Prefix(SYSTEM)
    assert learn(learner, *(f"{OTHER}{number}" for number in range(5)), newborn=newborn) == []
    # In the end it does, when the former does not come any more.
    assert learn(learner, *(f"{OTHER}{number}" for number in range(30)), newborn=newborn) != []
