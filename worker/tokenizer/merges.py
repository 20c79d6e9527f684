"""The merges of a byte-level BPE vocabulary, found again from nothing but its tokens.

Training appends a token for each merge, so ids are in the order of the merges. A token's merge is
therefore the last step of its own tokenization by the merges before it: if those leave two parts,
these are what it was made of, and if they leave more, it was not made by merging.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from shared.model.byte_level import BYTE_OF_LETTER, LETTERS

_NO_MERGE = 1 << 31
# The time for a token grows with the square of its length. The longest that training has made in
# public vocabularies are runs of a few hundred spaces or dashes.
_MAX_LETTERS = 1024


def rebuild_merges(tokens: Sequence[bytes], left_out: Collection[int]) -> list[tuple[str, str]]:
    """The merges in order of rank, in GPT-2's byte letters.

    Where several ids have the same bytes, the first is the one that was trained. ``left_out`` are
    ids of tokens that were added after the training.
    """
    ranks: dict[str, int] = {}
    merges: list[tuple[str, str]] = []
    rank_of, letters = ranks.get, dict(enumerate(LETTERS))
    for token, raw in enumerate(tokens):
        if not 2 <= len(raw) <= _MAX_LETTERS or token in left_out:
            continue
        # Byte values are code points here, so `translate` maps each to its letter.
        text = raw.decode("latin-1").translate(letters)
        if text in ranks:
            continue
        parts = list(text)
        pairs = [rank_of(left + right, _NO_MERGE) for left, right in pairwise(parts)]
        while len(pairs) > 1:
            lowest = min(pairs)
            if lowest == _NO_MERGE:
                break
            place = pairs.index(lowest)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            del pairs[place]
            if place:
                pairs[place - 1] = rank_of(parts[place - 1] + parts[place], _NO_MERGE)
            if place < len(pairs):
                pairs[place] = rank_of(parts[place] + parts[place + 1], _NO_MERGE)
        if len(parts) == 2:
            ranks[text] = token
            merges.append((parts[0], parts[1]))
    return merges


_LOST = "\ufffd".encode()
# Training puts the single bytes first, in the order of their letters: all of them, or only those
# that occur in UTF-8.
_ALL = bytes(byte for _, byte in sorted(BYTE_OF_LETTER.items()))
_IN_UTF8 = bytes(byte for byte in _ALL if byte not in (0xC0, 0xC1) and byte < 0xF5)


def restore_bytes(tokens: Sequence[bytes]) -> Sequence[bytes]:
    """Return the vocabulary with the tokens of single bytes as they were before they were lost."""
    if count_lost(tokens) < 128 or b"!" not in tokens:
        return tokens
    first = tokens.index(b"!")
    for alphabet in (_ALL, _IN_UTF8):
        singles = [bytes((byte,)) for byte in alphabet]
        shown = [single.decode("utf-8", "replace").encode() for single in singles]
        if list(tokens[first : first + len(shown)]) == shown:
            return [*tokens[:first], *singles, *tokens[first + len(singles) :]]
    return tokens


def count_lost(tokens: Sequence[bytes]) -> int:
    """Count the tokens that are nothing but a replacement character; one at most should be."""
    return sum(raw == _LOST for raw in tokens)
