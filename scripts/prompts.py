"""Prompts that are the same in every run, and that share no prefix unless they are meant to."""

import itertools
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "number",
    "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact",
    "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side",
    "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line",
    "end", "member", "law", "car", "city", "name", "team", "minute", "idea", "body", "back",
    "face", "level", "office", "door", "health", "person", "art", "war", "history", "party",
    "result", "change", "morning", "reason", "research", "girl", "guy", "moment", "air",
    "teacher", "force", "education",
)  # fmt: skip
"""Common words, nearly all of them one token of most vocabularies."""
_distinct = itertools.count()


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes texts; other seeds make others."""

    seed: int
    n_words: int
    shared_prefix: int = 0  #: words in front that are the same in all texts

    def text(self, *key: object) -> str:
        """The text of a key, e.g. a user's number and a request's.

        Texts of different keys differ in the very first words, so that a server's prefix cache
        has nothing of one that it has not seen.
        """
        return self._words(key, self.n_words)

    def completion(self, *key: object) -> str:
        return " ".join(filter(None, (self._words("shared", self.shared_prefix), self.text(*key))))

    def opening(self, *key: object) -> list[dict[str, str]]:
        system = self._words("shared", self.shared_prefix) or self.text("system", *key)
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": self.text(*key)},
        ]

    def _words(self, key: object, n: int) -> str:
        return " ".join(random.Random(f"{self.seed} {key}").choices(WORDS, k=n))


def words(n: int, salt: int = 0) -> str:
    """A text of ``n`` common words, the same each time for the same ``salt``."""
    return " ".join(WORDS[(salt + 7 * place) % len(WORDS)] for place in range(n))


def unlike_any() -> str:
    """A few words that no text of this run begins with, so that no cache has what follows."""
    number = next(_distinct)
    # The first token differs from that of the last 52 texts, which is more than any pool holds.
    return f"{string.ascii_letters[number % 52]}{number}"


def arrivals(rate: float, burstiness: float, seed: int, user: int) -> Iterator[float]:
    """Seconds from one arrival of an open loop to the next, without end.

    They are drawn from a gamma distribution, as other benchmarks of such servers do.

    Args:
        rate: arrivals in a second, on average.
        burstiness: the distribution's shape. 1 makes a Poisson process; less comes in bursts; more
            is more even.
        seed: the same seed gives the same user the same arrivals.
        user: number of the user; each has arrivals of its own.
    """
    source = random.Random(f"{seed} {user}")
    while True:
        yield source.gammavariate(burstiness, 1 / (rate * burstiness))
