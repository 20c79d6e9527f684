"""Special tokens in text: where they are, and which of them a template wrote itself.

A template's own text is marked before it is rendered: each character that special tokens are made
of becomes a surrogate, which no text of a client can hold, for JSON with one is refused. After the
rendering, a special token is one only if all of it is marked. So text of a client passes through a
template as it is, whatever the template does to it, and never becomes a special token.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

_FIRST_MARK, _LAST_MARK = 0xD800, 0xDFFE
END_MARK = "\udfff"
"""Shows in a rendered text where a message has ended; stands for no letter."""
_MARKS = re.compile("[\ud800-\udfff]+")


def has_marks(text: str) -> bool:
    """Whether a template wrote any of the text."""
    return not text.isascii() and _MARKS.search(text) is not None


class SpecialTokens:
    """The special tokens of one vocabulary."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Know ``texts``, in any order; an empty one is none."""
        known = [text for text in texts if text]
        # Space stays as it is: templates trim it, also from text of their own.
        letters = sorted({letter for text in known for letter in text if not letter.isspace()})
        codes = range(_FIRST_MARK, _LAST_MARK + 1)
        self._marks = {ord(letter): code for letter, code in zip(letters, codes, strict=False)}
        self._letters = {code: letter for letter, code in self._marks.items()}
        # A vocabulary of more letters than there are marks: what cannot be marked whole stays text.
        markable = (
            text
            for text in known
            if not text.isspace() and all(c.isspace() or ord(c) in self._marks for c in text)
        )
        self._pattern = _longest_of(known)
        self._marked_pattern = _longest_of([self.mark(text) for text in markable])

    def split(self, text: str) -> tuple[str, ...]:
        """Plain text and special tokens by turns, plain text first and last; the longest wins."""
        return tuple(self._pattern.split(text)) if self._pattern else (text,)

    def split_marked(self, text: str) -> tuple[str, ...]:
        """As `split`, but only marked special tokens are any; nothing in the parts is marked."""
        if self._marked_pattern is None:
            return (self.plain(text),)
        return tuple(map(self.plain, self._marked_pattern.split(text)))

    def mark(self, text: str) -> str:
        """The text, as the template's own; as long as before."""
        if not text.isascii():  # it might hold what only a mark may look like
            text = _MARKS.sub(lambda match: "\ufffd" * len(match[0]), text)
        return text.translate(self._marks)

    def plain(self, text: str) -> str:
        """The text without marks; as long as before."""
        return text if text.isascii() else _MARKS.sub(self._unmark, text)

    def like(self, text: str, example: str) -> str:
        """The text, marked where ``example`` of the same length is."""
        pairs = zip(text, example, strict=True)
        return "".join(self.mark(new) if ord(old) in self._letters else new for new, old in pairs)

    def _unmark(self, match: re.Match[str]) -> str:
        return match[0].translate(self._letters)


@lru_cache(maxsize=8)
def special_tokens(texts: tuple[str, ...]) -> SpecialTokens:
    """The special tokens with these texts; compiled once."""
    return SpecialTokens(texts)


def _longest_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern whose one group is the longest of the texts at its place."""
    if not texts:
        return None
    try:
        return re.compile(f"({_trie(texts)})")
    except (RecursionError, OverflowError):  # hundreds of texts, each the beginning of the next
        return re.compile(f"({'|'.join(map(re.escape, sorted(texts, key=len, reverse=True)))})")


def _trie(texts: Sequence[str]) -> str:
    # Alternatives that share no first letter: the time for a text does not grow with their number.
    branches = []
    for _, group in groupby(sorted(filter(None, set(texts))), key=lambda text: text[0]):
        members = list(group)
        prefix = _common_prefix(members[0], members[-1])
        rests = [text[len(prefix) :] for text in members]
        branches.append(re.escape(prefix) + (_trie(rests) if any(rests) else ""))
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _common_prefix(first: str, last: str) -> str:
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]
