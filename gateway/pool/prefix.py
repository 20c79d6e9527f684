"""How much of a prompt a worker's KV cache already holds."""

from collections.abc import Sequence

BLOCK = 32
"""Tokens to a block; only the last, unfinished block is compared token by token."""


class Prefix:
    """Tokens in a KV cache, or a prompt that is to be evaluated, ready to be compared with others.

    The hash of each block covers all blocks before it (vLLM's and SGLang's way), so that two are
    compared by bisecting their hashes, however long they are. A collision would only make the
    schedule worse: what is reused is decided by the worker, which compares all tokens.
    """

    __slots__ = ("_hashes", "ids", "prompt_length")

    def __init__(self, ids: tuple[int, ...]) -> None:
        """Hash ``ids``, which are all prompt."""
        self.ids = ids
        #: how many of them were the prompt; the rest was generated
        self.prompt_length = len(ids)
        self._hashes = _chained((), ids)

    def __len__(self) -> int:
        return len(self.ids)

    def followed_by(self, generated: tuple[int, ...]) -> "Prefix":
        """The same prompt with what was generated behind it."""
        longer = object.__new__(Prefix)
        longer.ids = self.ids + generated
        longer.prompt_length = self.prompt_length
        longer._hashes = _chained(self._hashes, longer.ids)
        return longer

    def shared_length(self, other: "Prefix") -> int:
        """How many tokens two have in common from their start."""
        mine, theirs = self._hashes, other._hashes
        low, high = 0, min(len(mine), len(theirs))
        while low < high:
            middle = (low + high + 1) // 2
            if mine[middle - 1] == theirs[middle - 1]:
                low = middle
            else:
                high = middle - 1
        n = low * BLOCK
        for a, b in zip(self.ids[n : n + BLOCK], other.ids[n : n + BLOCK], strict=False):
            if a != b:
                break
            n += 1
        return n


def _chained(known: Sequence[int], ids: tuple[int, ...]) -> list[int]:
    """The hashes of all whole blocks; ``known`` are those of the first ones."""
    hashes = list(known)
    previous = hashes[-1] if hashes else 0
    for start in range(len(hashes) * BLOCK, len(ids) - BLOCK + 1, BLOCK):
        previous = hash((previous, ids[start : start + BLOCK]))
        hashes.append(previous)
    return hashes


EMPTY = Prefix(())
"""What an empty KV cache holds."""
