"""GGUF version 3, as the specification in ggml's ``docs/gguf.md`` has it, for a stream.

The writer of the ``gguf`` package wants token texts in UTF-8 and buffers or finishes the file by
itself; ctransformers wants raw bytes, and a file appears here only when it has been checked.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from shared.model.gguf import DEFAULT_ALIGNMENT, MAGIC, ValueType
from shared.model.tensors import align
from worker.convert.layout import Part
from worker.convert.tensors import Tensor

VERSION = 3

Value: TypeAlias = str | bool | int | float | Sequence[bytes] | Sequence[int] | Sequence[float]


def parts(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> list[Part]:
    """Put a file together.

    Args:
        metadata: integers become UINT32 and, in lists, INT32; floats FLOAT32; `bytes` strings.
        tensors: in the order of their data.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    header += [_string(key.encode()) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        header.append(_string(tensor.name.encode()))
        header.append(struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        header.append(struct.pack("<IQ", tensor.tensor_type, offset))
        offset = align(offset + tensor.n_bytes, DEFAULT_ALIGNMENT)
    start = b"".join(header)
    result: list[Part] = [start.ljust(align(len(start), DEFAULT_ALIGNMENT), b"\0")]
    for tensor in tensors:
        result += [tensor, b"\0" * (-tensor.n_bytes % DEFAULT_ALIGNMENT)]
    return result


def _value(value: Value) -> bytes:
    match value:
        case str():
            return _tag(ValueType.STRING) + _string(value.encode())
        case bool():
            return _tag(ValueType.BOOL) + struct.pack("<?", value)
        case int():
            return _tag(ValueType.UINT32) + struct.pack("<I", value)
        case float():
            return _tag(ValueType.FLOAT32) + struct.pack("<f", value)
    return _tag(ValueType.ARRAY) + _array(value)


def _array(items: Sequence[bytes] | Sequence[int] | Sequence[float]) -> bytes:
    count = struct.pack("<Q", len(items))
    strings = [item for item in items if isinstance(item, bytes)]
    if len(strings) == len(items):
        return _tag(ValueType.STRING) + count + b"".join(map(_string, strings))
    kind, form = (ValueType.FLOAT32, "f") if isinstance(items[0], float) else (ValueType.INT32, "i")
    return _tag(kind) + count + struct.pack(f"<{len(items)}{form}", *items)


def _tag(kind: ValueType) -> bytes:
    return struct.pack("<I", kind)


def _string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw
