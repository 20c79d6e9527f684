"""Checks of what the allocator does, each run in a process of its own; see `test_scratch`."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from worker.engines.base import SlotTokens
from worker.engines.ctransformers import CTransformersEngine
from worker.engines.scratch import _blocks, _bytes_mapped, _is_blank, mapped

SIZE = 40 << 20
"""Beyond any threshold up to which the allocator takes a block from its heap."""


def finds_blocks() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    before = mapped()
    addresses = [libc.malloc(SIZE + number) for number in (0, 4096, 8192)]
    # In the middle, as the descriptions in a KV cache are.
    ctypes.memset(addresses[1] + SIZE // 2, 1, 1)
    blocks = {block.start + 16: block for block in _blocks(mapped(), before, SIZE)}
    assert set(addresses) <= set(blocks)
    found = [blocks[address] for address in addresses]
    assert [len(block) for block in found] == [
        _bytes_mapped(SIZE + number) for number in (0, 4096, 8192)
    ]
    assert [_is_blank(block) for block in found] == [True, False, True]
    assert not {block.start + 16 for block in _blocks(mapped(), mapped(), SIZE)}


def gives_back(path: str) -> None:
    engine = CTransformersEngine(WorkerConfig("ctransformers", path, n_ctx=256))
    prompt = engine.tokenize(["The sea was calm that night, and the harbour lay still. " * 10])

    def evaluate(tokens: Sequence[int]) -> NDArray[np.float32]:
        (logits,) = engine.forward([SlotTokens(0, tokens)], 1)
        return logits.copy()

    evaluate(prompt[:31])
    before = anonymous_bytes()
    engine.rest()
    given_back = before - anonymous_bytes()
    # The logits of all tokens of the chunk are most of it.
    assert given_back > 0.9 * 31 * engine.info.n_vocab * 4, given_back
    following = evaluate(prompt[31:62])
    engine.rest()
    engine.rest()
    engine.reuse_prefix(0, prompt[:1])
    evaluate(prompt[:31])
    assert np.array_equal(evaluate(prompt[31:62]), following)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "finds_blocks":
        finds_blocks()
    else:
        gives_back(sys.argv[2])
    print("done")
