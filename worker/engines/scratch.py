"""The library's memory for the course of one evaluation, and giving it back between two.

An evaluation writes megabytes that nobody reads after it: mostly the logits of all tokens of a
chunk. The library keeps the buffers, and has no call that frees them or tells where they are. But
glibc's allocator gives each large block a mapping of its own and puts its size in front, so that
blocks can be told apart in ``/proc/self/maps``. Two kinds are buffers of evaluations:

- In GGUF and ggcc files, what was allocated as the model was loaded and has not been written to
  since. (The KV cache has: descriptions of its tensors lie between their data.)
- In the older formats, blocks of 256 MiB that came after the model was loaded: the library
  allocates them in its first evaluation.

Where anything is not as expected (another allocator, no ``/proc``), nothing is found, and nothing
given back.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from shared.model.description import FileFormat, ModelFile
from shared.model.memory import LEGACY_BUFFER

_PAGE = mmap.PAGESIZE
_LEAST = 1 << 20
"""Smaller blocks are not worth the search."""
_HEADER = struct.Struct("@NN")
_FLAGS = 7
_HAS_MAPPING = 2
"""The flags of a block with a mapping of its own, in the lowest bits of its size."""
_WRITTEN = np.uint64(1 << 63 | 1 << 62)
"""Bits of a page in ``/proc/self/pagemap``: in memory, or swapped out."""
_MOST_BESIDE_KV = 4 << 20
"""The library adds a little to the size of the KV cache, for descriptions."""


class Scratch:
    """The buffers of one loaded model."""

    def __init__(self, file: ModelFile, n_ctx: int, mapped_before: Sequence[range]) -> None:
        """Find them, right after the library has loaded the model.

        Args:
            file: the model.
            n_ctx: the context that it was loaded with, in tokens.
            mapped_before: what `mapped` gave before.
        """
        self._mapped = mapped()
        self._is_legacy = file.file_format is FileFormat.GGML
        self._buffers: list[range] = []
        if not self._is_legacy:
            kv_cache = file.memory.kv_per_token * n_ctx
            self._buffers = [
                block
                for block in _blocks(self._mapped, mapped_before, _LEAST)
                # What looks as if it might be the cache is left alone, written to or not.
                if _is_blank(block) and not 0 <= len(block) - kv_cache <= _MOST_BESIDE_KV
            ]

    def give_back(self) -> None:
        """Return the buffers' pages to the system; an evaluation gets new ones, of zeros."""
        buffers = self._buffers
        if self._is_legacy:
            # Looked for each time, since one that has become too small is replaced.
            size = _bytes_mapped(LEGACY_BUFFER)
            found = _blocks(mapped(), self._mapped, size)
            buffers = [block for block in found if len(block) == size]
        for block in buffers:
            # All but the page with the allocator's own notes.
            start, length = block.start + _PAGE, len(block) - _PAGE
            # Its refusal would change nothing: the memory then stays where it is.
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def mapped() -> list[range]:
    """Addresses of private memory that belongs to no file, as it is mapped."""
    ranges = []
    with suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            addresses, rights, _, _, inode, *path = line.split()
            if rights == "rw-p" and inode == "0" and not path:
                start, stop = (int(address, 16) for address in addresses.split("-"))
                ranges.append(range(start, stop))
    return ranges


def _blocks(now: Sequence[range], before: Sequence[range], least: int) -> list[range]:
    """The blocks of at least so many bytes in memory that is mapped now and was not before."""
    blocks: list[range] = []
    # Read in this way, memory that goes away meanwhile is an error and no signal.
    with suppress(OSError), open("/proc/self/mem", "rb", buffering=0) as memory:
        for piece in _difference(now, before):
            at = piece.start
            while at + least <= piece.stop:
                in_front, size = _HEADER.unpack(os.pread(memory.fileno(), _HEADER.size, at))
                length = size & ~_FLAGS
                is_block = in_front == 0 and size & _FLAGS == _HAS_MAPPING and length % _PAGE == 0
                if is_block and _PAGE <= length <= piece.stop - at:
                    if length >= least:
                        blocks.append(range(at, at + length))
                    at += length
                else:
                    at += _PAGE
    return blocks


def _difference(now: Sequence[range], before: Sequence[range]) -> Iterator[range]:
    """The parts of some ranges that are in none of the others; both in order, disjoint."""
    for piece in now:
        start = piece.start
        for old in before:
            if old.start < piece.stop and start < old.stop:
                if start < old.start:
                    yield range(start, old.start)
                start = old.stop
        if start < piece.stop:
            yield range(start, piece.stop)


def _is_blank(block: range) -> bool:
    """Whether nothing but the first page of a block has ever been written to."""
    n_pages = len(block) // _PAGE - 1
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            entries = os.pread(pagemap.fileno(), n_pages * 8, (block.start // _PAGE + 1) * 8)
    except OSError:
        return False
    return len(entries) == n_pages * 8 and not np.any(np.frombuffer(entries, np.uint64) & _WRITTEN)


def _bytes_mapped(n: int) -> int:
    """The size of the mapping that glibc makes for a block of ``n`` bytes."""
    in_use = (n + 8 + 15) // 16 * 16
    return (in_use + 8 + _PAGE - 1) // _PAGE * _PAGE
