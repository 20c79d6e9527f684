"""The merges of a byte-level BPE vocabulary, found again from nothing but its tokens.

Training appends a token for each merge, so ids are in the order of the merges. A token's merge is
therefore the last step of its own tokenization by the merges before it: if those leave two parts,
these are what it was made of, and if they leave more, it was not made by merging.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from shared.byte_level import LETTERS

_NO_MERGE = 1 << 31
# The time for a token grows with the square of its length. The longest that training has made in
# public vocabularies are runs of a few hundred spaces or dashes.
_MAX_LETTERS = 1024


def rebuild_merges(tokens: Sequence[bytes], left_out: Collection[int]) -> list[tuple[str, str]]:
    """Return the merges in order of rank, in GPT-2's byte letters.

    Where several ids have the same bytes, the first is the one that was trained.

    Args:
        tokens: the bytes of each id.
        left_out: ids of tokens that were added after the training.
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
