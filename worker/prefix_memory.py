"""The memory that the gateway shares out among the workers, for states of their KV caches."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from shared.saved_prefix import Region


class PrefixMemory:
    """The same bytes in every worker; the gateway says who may write or read where."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map it; a process that is forked later has it, too."""
        self._map = mmap.mmap(descriptor, size)

    @contextmanager
    def region(self, region: Region) -> Iterator[memoryview]:
        """The bytes of a region.

        Afterwards this process has none of its pages, which would count as its private memory
        until another process touches them.
        """
        with memoryview(self._map) as whole:
            end = region.offset + region.size
            with whole[region.offset : end] as part:
                yield part
        first = region.offset - region.offset % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, first, end - first)
