"""How much of a prompt a worker's KV cache may already hold, judged by the text alone."""

from collections.abc import Sequence

BLOCK = 128
"""Characters to a block; only the last, unfinished block of a text is compared by character."""


class Prefix:
    """A text in a KV cache, or one that is to be evaluated, ready to be compared with others.

    The hash of each block covers all blocks before it (vLLM's and SGLang's way), so that two texts
    are compared by bisecting their hashes, however long they are. A collision would only make the
    schedule worse: what is reused is decided by the worker, which compares token ids.

    Attributes:
        text: the text.
        prompt_length: how many characters of it were the prompt; the rest was generated.
    """

    __slots__ = ("_hashes", "prompt_length", "text")

    def __init__(self, text: str, prompt_length: int | None = None) -> None:
        """Hash ``text``, which is all prompt if not said otherwise."""
        self.text = text
        self.prompt_length = len(text) if prompt_length is None else prompt_length
        self._hashes = _chained((), text)

    def __len__(self) -> int:
        """How many characters the text has."""
        return len(self.text)

    def followed_by(self, generated: str) -> "Prefix":
        """The same prompt with what was generated behind it."""
        longer = object.__new__(Prefix)
        longer.text = self.text + generated
        longer.prompt_length = self.prompt_length
        longer._hashes = _chained(self._hashes, longer.text)
        return longer

    def shared_length(self, other: "Prefix") -> int:
        """How many characters two texts have in common from their start."""
        mine, theirs = self._hashes, other._hashes
        low, high = 0, min(len(mine), len(theirs))
        while low < high:
            middle = (low + high + 1) // 2
            if mine[middle - 1] == theirs[middle - 1]:
                low = middle
            else:
                high = middle - 1
        start = low * BLOCK
        a, b = self.text[start : start + BLOCK], other.text[start : start + BLOCK]
        return start + shared_prefix_length(a, b)


def shared_prefix_length(a: str, b: str) -> int:
    """Count the characters that two short texts have in common from their start."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _chained(known: Sequence[int], text: str) -> list[int]:
    """The hashes of all whole blocks; ``known`` are those of the first ones."""
    hashes = list(known)
    previous = hashes[-1] if hashes else 0
    for start in range(len(hashes) * BLOCK, len(text) - BLOCK + 1, BLOCK):
        previous = hash((previous, text[start : start + BLOCK]))
        hashes.append(previous)
    return hashes


EMPTY = Prefix("")
"""What an empty KV cache holds."""
