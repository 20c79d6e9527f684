"""What KV caches hold: those of the workers' slots, and those that were saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.saved_prefix import Region, SavedPrefix

_PAGE = 4096
BLOCK = 32
"""Tokens to a block; only the last, unfinished block is compared token by token."""


class Prefix:
    """Tokens in a KV cache, or a prompt that is to be evaluated, ready to be compared with others.

    The hash of each block covers all blocks before it (vLLM's and SGLang's way), so that two are
    compared by bisecting their hashes, however long they are. A collision would only make the
    schedule worse: what is reused is decided by the worker, which compares all tokens.
    """

    __slots__ = ("blocks", "ids", "prompt_length")

    def __init__(self, ids: tuple[int, ...]) -> None:
        """Hash ``ids``, which are all prompt."""
        self.ids = ids
        #: how many of them were the prompt; the rest was generated
        self.prompt_length = len(ids)
        #: a hash of each whole block
        self.blocks = _chained((), ids)

    def __len__(self) -> int:
        return len(self.ids)

    def followed_by(self, generated: tuple[int, ...]) -> "Prefix":
        """The same prompt with what was generated behind it."""
        longer = object.__new__(Prefix)
        longer.ids = self.ids + generated
        longer.prompt_length = self.prompt_length
        longer.blocks = _chained(self.blocks, longer.ids)
        return longer

    def shared_length(self, other: "Prefix") -> int:
        """How many tokens two have in common from their start."""
        mine, theirs = self.blocks, other.blocks
        n = BLOCK * depth(min(len(mine), len(theirs)), lambda block: mine[block] == theirs[block])
        for a, b in zip(self.ids[n : n + BLOCK], other.ids[n : n + BLOCK], strict=False):
            if a != b:
                break
            n += 1
        return n


def depth(n_blocks: int, is_shared: Callable[[int], bool]) -> int:
    """How many of the blocks are shared, by bisection: one that is, is behind others that are."""
    low, high = 0, n_blocks
    while low < high:
        middle = (low + high + 1) // 2
        if is_shared(middle - 1):
            low = middle
        else:
            high = middle - 1
    return low


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


@dataclass(slots=True, eq=False)
class Entry:
    """A state of a KV cache."""

    prefix: Prefix
    region: Region
    #: the worker that is to write it and has not answered yet
    writer: int | None
    #: a part of it, which goes once it is written
    replaced: "Entry | None" = None
    #: workers that may be reading it, one as often as it reads
    readers: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.region.offset + -(-self.region.size // _PAGE) * _PAGE

    @property
    def is_pinned(self) -> bool:
        return self.writer is not None or bool(self.readers)

    def part_of(self, prompt: Prefix) -> SavedPrefix:
        return SavedPrefix(self.region, self.prefix.shared_length(prompt))


@dataclass(slots=True, eq=False)
class Slot:
    """One KV cache of a worker, or one of the sequences in it."""

    worker_id: int
    index: int
    #: what it held at first
    born: Prefix
    #: what it holds; while it runs a job, what it held before
    cached: Prefix
    #: what another slot of the worker can have a copy of; nothing while a prompt is evaluated
    shareable: Prefix
    #: where all of `cached`, or nearly all, has been saved
    saved: Entry | None = None

    @property
    def is_blank(self) -> bool:
        """Whether it has never run a job."""
        return self.cached is self.born

    def is_continued(self, shared: int) -> bool:
        """Whether a prompt that shares so many tokens begins with the whole prompt of the cache."""
        return self.is_blank or shared >= self.cached.prompt_length
