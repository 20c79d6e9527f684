"""The prefix cache: which states of KV caches are kept in memory, and where. Data only, no clock.

The gateway alone decides what is where in the memory that all workers share. A worker writes to a
region or reads from it only when it is told to, so a region gets a new use only when every worker
that was told of the old one has answered, or is dead.
"""

from itertools import islice

from gateway.pool.base import PrefixCacheStatus
from gateway.pool.prefix import Entry, Prefix, depth
from shared.saved_prefix import Region

LEAST_TOKENS = 32
"""What is not worth saving, or waiting for: a prefill of fewer tokens is short."""
# So many at most, which bounds the time to find room.
_MOST_ENTRIES = 4096
# Of those that share a block with a prompt, the newest are compared with it to the last token.
_MOST_CANDIDATES = 16


class PrefixCache:
    """The entries, of which the one that was used the longest ago goes first."""

    def __init__(self, size: int) -> None:
        """``size`` is in bytes; 0 keeps nothing."""
        self._size = size
        #: of a KV cache of the model, see `shared.model_info.ModelInfo`
        self.most_rewound: int | None = None
        # Least recently used first.
        self._entries: dict[Entry, None] = {}
        # Hash of a block, which covers those before it -> the entries that have it.
        self._by_block: dict[int, dict[Entry, None]] = {}

    def __contains__(self, entry: Entry | None) -> bool:
        return entry in self._entries

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def status(self) -> PrefixCacheStatus:
        used = sum(entry.end - entry.region.offset for entry in self._entries)
        pending = sum(entry.writer is not None for entry in self._entries)
        return PrefixCacheStatus(self._size, used, len(self._entries), pending)

    def reusable(self, cached: Prefix, prompt: Prefix) -> int:
        """How many tokens of a prompt need no evaluation where a KV cache holds ``cached``."""
        shared = cached.shared_length(prompt)
        can_be_cut = self.most_rewound is None or len(cached) <= self.most_rewound
        return shared if can_be_cut or shared == len(cached) else 0

    def longest(self, prompt: Prefix, *, is_written: bool = True) -> tuple[Entry | None, int]:
        """The entry that has the most of a prompt, and how many tokens of it.

        Args:
            prompt: to be evaluated, or what a KV cache holds.
            is_written: not one that is still to be written.
        """
        blocks = prompt.blocks
        n_known = depth(len(blocks), lambda block: blocks[block] in self._by_block)
        for block in reversed(blocks[:n_known]):
            newest = islice(reversed(self._by_block[block]), _MOST_CANDIDATES)
            found = [
                (self.reusable(entry.prefix, prompt), entry)
                for entry in newest
                if entry.writer is None or not is_written
            ]
            n, best = max(found, key=lambda each: each[0], default=(0, None))
            if n:
                return best, n
        return None, 0

    def keep(self, prefix: Prefix, size: int, writer: int) -> tuple[Entry | None, bool]:
        """Find room for what a KV cache holds, unless that, or nearly all of it, is there.

        Args:
            prefix: what it holds.
            size: of its state, in bytes.
            writer: its worker.

        Returns:
            The entry, and whether the worker is to write it.
        """
        known, n = self.longest(prefix, is_written=False)
        if len(prefix) - n < LEAST_TOKENS:
            return known, False
        # Where a cache cannot be cut, the shorter one is the only way back.
        is_part = known is not None and n == len(known.prefix) and self.most_rewound is None
        entry = self._reserve(prefix, size, writer, known if is_part else None)
        return entry, entry is not None

    def _reserve(
        self, prefix: Prefix, size: int, writer: int, replaced: Entry | None
    ) -> Entry | None:
        if not 0 < size <= self._size:
            return None
        while (offset := self._free(size)) is None:
            oldest = next((entry for entry in self._entries if not entry.is_pinned), None)
            if oldest is None:
                return None
            self._remove(oldest)
        entry = Entry(prefix, Region(offset, size), writer, replaced)
        self._entries[entry] = None
        for block in prefix.blocks:
            self._by_block.setdefault(block, {})[entry] = None
        return entry

    def settle(self, region: Region, *, is_whole: bool) -> None:
        """A worker has answered: it has written a state, or there was none."""
        for entry in reversed(self._entries):
            if entry.region == region:
                replaced, entry.replaced, entry.writer = entry.replaced, None, None
                if not is_whole:
                    self._remove(entry)
                elif replaced in self._entries and not replaced.is_pinned:
                    self._remove(replaced)
                return

    def read(self, entry: Entry, reader: int) -> None:
        """A worker may read an entry until it is released."""
        entry.readers.append(reader)
        del self._entries[entry]
        self._entries[entry] = None

    def release(self, entry: Entry, reader: int) -> None:
        """A worker does not read it any more."""
        if reader in entry.readers:  # else the worker has died meanwhile
            entry.readers.remove(reader)

    def forget(self, worker_id: int) -> None:
        """A worker is dead: it reads and writes nothing any more."""
        for entry in list(self._entries):
            entry.readers = [reader for reader in entry.readers if reader != worker_id]
            if entry.writer == worker_id:
                self._remove(entry)

    def _free(self, size: int) -> int | None:
        """The first place with room."""
        if len(self._entries) >= _MOST_ENTRIES:
            return None
        offset = 0
        for entry in sorted(self._entries, key=lambda entry: entry.region.offset):
            if entry.region.offset - offset >= size:
                return offset
            offset = entry.end
        return offset if self._size - offset >= size else None

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry]
        for block in entry.prefix.blocks:
            entries = self._by_block[block]
            del entries[entry]
            if not entries:
                del self._by_block[block]
