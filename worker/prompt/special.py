"""Special tokens in text: where they are, and what clients wrote that must not become one.

What a client sends is masked before it is rendered: in each place where it is, or could become a
part of, the text of a control token, the letters are replaced by others that no text has. So it
passes through a template as it is, whatever the template does to it; a control token in the
rendered text was written by the template. Ordinary added tokens such as ``</think>`` are not
masked: templates look for them in what the model has said.
"""

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

# The last plane of Unicode has no letters, and no fonts that are known to use it.
_FIRST_MASK = 0x100000
_LAST_MASK = 0x10FFFC
END_MARK = "\U0010fffd"
"""Shows in a rendered text where the last message has ended."""
# Their values are the server's own words, and templates put them between the signs of a token.
_OWN_WORDS = ("role", "type")


class SpecialTokens:
    """The special tokens of one vocabulary."""

    def __init__(self, texts: Collection[str], control: Collection[str]) -> None:
        """Know the texts of all tokens, and of those that only a template may write into a chat."""
        self._pattern = _longest_of([text for text in texts if text.strip()])
        control = [text for text in control if text.strip()]
        # Without regard to case, which a template may change.
        self._control = _longest_of([_folded(text) for text in control])
        # What templates cut out of a text: white space and ordinary added tokens.
        cut = sorted((text for text in set(texts).difference(control) if text.strip()), key=len)
        added = [re.escape(_folded(text)) for text in cut[::-1]]
        self._cut = re.compile("|".join([r"\s+", *added]))
        self._added = re.compile("|".join(added)) if added else None
        self._joined = _longest_of(["".join(_folded(text).split()) for text in control])
        # Space stays as it is: templates trim it.
        known = {letter for text in control for letter in (*text, *text.swapcase())}
        letters = sorted(letter for letter in known if not letter.isspace())
        codes = range(_FIRST_MASK, _LAST_MASK + 1)
        self._masks = {ord(letter): code for letter, code in zip(letters, codes, strict=False)}
        self._letters = {code: letter for letter, code in self._masks.items()}
        self._taken = re.compile(f"[{chr(_FIRST_MASK)}-{END_MARK}]")
        self._begins = frozenset(text[:n] for text in control for n in range(1, len(text)))
        self._ends = frozenset(text[n:] for text in control for n in range(1, len(text)))
        self._longest = max(map(len, control), default=0)
        self._texts = "\0".join(control)

    def split(self, text: str) -> tuple[str, ...]:
        """Plain text and special tokens by turns, plain text first and last; the longest wins."""
        return tuple(self._pattern.split(text)) if self._pattern else (text,)

    def split_masked(self, text: str) -> tuple[str, ...]:
        """The same for a text in which something is masked; nothing in the parts is."""
        return tuple(map(self.unmask, self.split(text)))

    def mask(self, value: Any, key: str = "") -> Any:
        """JSON of a client's, masked; ``key`` is what it is called in the object around it."""
        match value:
            case str():
                return self._mask_text(value, is_own=key in _OWN_WORDS)
            case dict():
                return {
                    self._mask_text(name, is_own=True): self.mask(item, name)
                    for name, item in value.items()
                }
            case list() | tuple():
                return [self.mask(item, key) for item in value]
            case _:
                return value

    def unmask(self, text: str) -> str:
        """The text with the letters that were there."""
        return text if text.isascii() else text.translate(self._letters)

    def _mask_text(self, text: str, *, is_own: bool) -> str:
        if not text.isascii():
            text = self._taken.sub("\ufffd", text)
        if self._control is None or not text:
            return text
        folded = _folded(text)
        places = [n for match in self._control.finditer(folded) for n in range(*match.span())]
        places += self._joined_places(folded)
        places += self._outer_places(text, is_own=is_own)
        if not places:
            return text
        letters = list(text)
        for n in places:
            letters[n] = letters[n].translate(self._masks)
        return "".join(letters)

    def _joined_places(self, folded: str) -> list[int]:
        """Where the letters are that make a token if something between them is cut out."""
        assert self._joined is not None
        left = "".join(folded.split())
        if not self._joined.search(self._added.sub("", left) if self._added else left):
            return []
        kept = list(range(len(folded)))
        for match in reversed(list(self._cut.finditer(folded))):
            del kept[match.start() : match.end()]
        found = self._joined.finditer("".join([folded[n] for n in kept]))
        return [n for match in found for n in kept[match.start() : match.end()]]

    def _outer_places(self, text: str, *, is_own: bool) -> list[int]:
        """Where the letters are that a template might complete to a token on either side."""
        begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
        if len(text) < self._longest and not is_own and text in self._texts:
            return list(range(len(text)))
        places: list[int] = []
        for n in range(1, min(end - begin, self._longest - 1) + 1):
            if text[end - n : end] in self._begins:
                places += range(end - n, end)
            if text[begin : begin + n] in self._ends:
                places += range(begin, begin + n)
        return places


def _folded(text: str) -> str:
    """The text in lower case, letter by letter, so that it is as long as before."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join([low if len(low := letter.lower()) == 1 else letter for letter in text])


def _longest_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern whose one group is the longest of the texts at its place."""
    if not texts:
        return None
    try:
        return re.compile(f"({_trie(texts)})")
    except (RecursionError, OverflowError):  # hundreds of texts, each the beginning of the next
        longest_first = sorted(texts, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


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
