"""The first layout of model files, of ggml's examples (gpt-2, gpt-neox, mpt, starcoder).

A magic number, the family's header, the vocabulary, and the tensors without any padding.
"""

import struct
from collections.abc import Sequence

from worker.convert.layout import Part, counted, legacy_record
from worker.convert.tensors import Tensor

MAGIC = 0x67676D6C


def parts(header: bytes, tokens: Sequence[bytes], tensors: Sequence[Tensor]) -> list[Part]:
    """Put a file together.

    Args:
        header: what the family has between the magic number and the first token.
        tokens: each id's bytes, in the form that the family's reader wants.
        tensors: in any order; the readers look them up by name.
    """
    start = struct.pack("<I", MAGIC) + header + b"".join(map(counted, tokens))
    return [start, *(part for tensor in tensors for part in (legacy_record(tensor), tensor))]
