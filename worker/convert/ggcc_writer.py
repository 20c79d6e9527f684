"""The ``ggcc`` layout of Falcon models, of the ggllm.cpp project (version 10 of its file format).

Like the first layout, but tokens have scores, the merges are in the file, and the data of every
tensor begins at a multiple of 32 bytes.
"""

import struct
from collections.abc import Sequence

from shared.model.tensors import align
from worker.convert.layout import Part, counted, legacy_record
from worker.convert.tensors import Tensor

MAGIC = 0x67676363
VERSION = 10
_ALIGNMENT = 32


def parts(
    hyperparameters: Sequence[int],
    tokens: Sequence[bytes],
    merges: Sequence[tuple[str, str]],
    tensors: Sequence[Tensor],
) -> list[Part]:
    """Put a file together.

    Args:
        hyperparameters: n_vocab, n_embd, n_head, n_head_kv, n_layer, 7 or 40, file type.
        tokens: each id's raw bytes.
        merges: in order of rank, in GPT-2's byte letters.
        tensors: in any order; the reader looks them up by name.
    """
    start = [
        struct.pack("<II7iI", MAGIC, VERSION, *hyperparameters, len(merges)),
        *(counted(token) + struct.pack("<f", 0.0) for token in tokens),
        struct.pack("<I", len(merges)),
        *(counted(left.encode()) + counted(right.encode()) for left, right in merges),
    ]
    result: list[Part] = [b"".join(start)]
    position = len(result[0]) if isinstance(result[0], bytes) else 0
    for tensor in tensors:
        record = legacy_record(tensor)
        record = record.ljust(align(position + len(record), _ALIGNMENT) - position, b"\0")
        result += [record, tensor]
        position += len(record) + tensor.n_bytes
    return result
