"""Prompts that are the same in every run, and that share no prefix unless they are meant to."""

import random
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes texts.

    Attributes:
        seed: other seeds make other texts.
        n_words: length of a text in words, which is about its length in tokens.
        shared_prefix: words in front that are the same in all texts.
    """

    seed: int
    n_words: int
    shared_prefix: int = 0

    def shared(self) -> str:
        """The words that all texts have in front."""
        return _words(random.Random(f"{self.seed} shared"), self.shared_prefix)

    def text(self, *key: object) -> str:
        """The text of a key, e.g. a user's number and a request's.

        Texts of different keys differ in the very first words, so that a server's prefix cache
        has nothing of one that it has not seen.
        """
        return _words(random.Random(f"{self.seed} {key}"), self.n_words)

    def completion(self, *key: object) -> dict[str, Any]:
        """The part of a completion's body that says what is asked."""
        return {"prompt": " ".join(filter(None, (self.shared(), self.text(*key))))}

    def opening(self, *key: object) -> list[dict[str, str]]:
        """The messages that begin a chat."""
        system = self.shared() or self.text("system", *key)
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": self.text(*key)},
        ]


def _words(source: random.Random, n: int) -> str:
    return " ".join(source.choices(WORDS, k=n))
