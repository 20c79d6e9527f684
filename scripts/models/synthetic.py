#!/usr/bin/env python3
"""Writes a model file of a realistic size with random weights, to measure speed and memory with.

Shapes, vocabulary size and file layout are those of real models, and the server takes the file for
one; it talks nonsense. Nothing but numpy and this repository is needed.
"""

import argparse
import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

# Works from a checkout, too, where nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.models.family_specials import (
    FALCON_SPECIAL,
    NEOX_SPECIAL,
    SPACES,
    STARCODER_SPECIAL,
)
from shared.errors import UsageError
from shared.model.byte_level import LETTERS, bytes_of
from shared.model.inspect import inspect
from shared.model.tensors import TENSOR_TYPES
from tests.gguf_files import Tensor
from tests.legacy_files import LegacyDraft, record, tiny_ggcc, tiny_mpt, tiny_starcoder

_BLOCK_ELEMENTS = 1 << 22
_LONGEST_PART = 4
"""Letters of a token that longer ones are made of."""
_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}

SPECIAL: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "falcon": (FALCON_SPECIAL, ()),
    "starcoder": (STARCODER_SPECIAL, ()),
    "mpt": (NEOX_SPECIAL, SPACES),
}
"""Per family: tokens before all others, and after them."""
_MAKERS: dict[str, tuple[Callable[..., LegacyDraft], int, int]] = {
    "falcon": (tiny_ggcc, 65_024, 65_024),
    "starcoder": (tiny_starcoder, 49_152, 49_152),
    "mpt": (tiny_mpt, 50_277, 50_432),
}
"""Per family: what describes a file, tokens of its vocabulary, and rows of its embedding."""
SIZES = {
    "100m": dict.fromkeys(SPECIAL, (768, 12, 8)),
    "1b": dict.fromkeys(SPECIAL, (2048, 32, 24)),
    "7b": {"falcon": (4544, 71, 32), "starcoder": (4096, 32, 42), "mpt": (4096, 32, 32)},
}
"""Width, attention heads and layers by the number of parameters that they come to, roughly."""


class Merger:
    """Byte-pair merges, the earliest first."""

    def __init__(self) -> None:
        self.ranks: dict[tuple[str, str], int] = {}

    def split(self, text: str) -> list[str]:
        """The tokens that a text is merged into."""
        parts, none = list(text), len(self.ranks)
        while True:
            best, at = none, 0
            for place in range(len(parts) - 1):
                rank = self.ranks.get((parts[place], parts[place + 1]), none)
                if rank < best:
                    best, at = rank, place
            if best == none:
                return parts
            parts[at : at + 2] = [parts[at] + parts[at + 1]]


def make_vocabulary(family: str, n_vocab: int) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Invented words, and their merges, which follow from the ids."""
    first, last = SPECIAL[family]
    texts = [*first, *LETTERS]
    known, merger, rng = set(texts), Merger(), np.random.default_rng(0)
    words = [LETTERS[byte] for byte in b"abcdefghijklmnopqrstuvwxyz"]
    starts = [*words, *(LETTERS[byte] for byte in b" ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    while len(texts) < n_vocab - len(last):
        left = starts[rng.integers(len(starts))]
        right = words[rng.integers(len(words))]
        text = left + right
        # Tokens whose letters merge in another way would never be met with.
        if text in known or merger.split(text) != [left, right]:
            continue
        merger.ranks[left, right] = len(merger.ranks)
        texts.append(text)
        known.add(text)
        if len(text) <= _LONGEST_PART:
            starts.append(text)
            if text.islower():
                words.append(text)
    spelt = [bytes_of(text) or b"" for text in texts[len(first) :]]
    added = ([text.encode() for text in some] for some in (first, last))
    before, after = added
    return [*before, *spelt, *after], list(merger.ranks)


def plan(family: str, parameters: str, weight_type: str) -> LegacyDraft:
    """Describe a file, without its weights."""
    make, n_tokens, n_rows = _MAKERS[family]
    n_embd, n_head, n_layer = SIZES[parameters][family]
    more = {} if family == "falcon" else {"n_ctx": 2048}
    draft = make(
        n_embd=n_embd, n_head=n_head, n_layer=n_layer, wtype=_TYPES[weight_type], n_vocab=n_rows,
        empty=True, **more,
    )  # fmt: skip
    words, merges = make_vocabulary(family, n_tokens)
    draft.words = [*words, *(b"[PAD%d]" % token for token in range(n_tokens, n_rows))]
    if family == "mpt":
        draft.words = [word.decode("latin-1").encode() for word in draft.words]
    if family == "falcon":
        halves = [half.encode() for pair in merges for half in pair]
        draft.header["n_merges"] = len(merges)
        draft.between = struct.pack("<i", len(merges))
        draft.between += b"".join(struct.pack("<I", len(half)) + half for half in halves)
    return draft


def write(draft: LegacyDraft, target: Path) -> int:
    """Write the file with random weights, and return its length in bytes."""
    try:
        with target.open("wb") as file:
            file.write(draft.head())
            for name, tensor in draft.tensors.items():
                file.write(record(name, tensor))
                file.write(bytes(-file.tell() % draft.alignment))
                for chunk in random_chunks(name, tensor):
                    file.write(chunk)
            return file.tell()
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error


def random_chunks(name: str, tensor: Tensor) -> Iterator[bytes]:
    """Norms of one, no biases, and matrices whose products with a normed vector keep its length."""
    left = math.prod(tensor.shape)
    type_name, block, block_bytes = TENSOR_TYPES[tensor.ggml_type]
    if len(tensor.shape) == 1:
        yield np.full(left, float(name.endswith(("weight", "/g"))), "<f4").tobytes()
        return
    rng, scale = np.random.default_rng(len(name)), tensor.shape[0] ** -0.5
    while left:
        n_elements = min(left, _BLOCK_ELEMENTS)
        left -= n_elements
        if block == 1:
            values = rng.standard_normal(n_elements, np.float32) * np.float32(scale)
            yield values.astype("<f4" if type_name == "F32" else "<f2").tobytes()
            continue
        n_blocks = n_elements // block
        blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
        # The standard deviation of random nibbles, and of random bytes.
        step = scale / (4.61 if type_name == "Q4_0" else 73.9)
        scales = (step * rng.uniform(0.8, 1.2, n_blocks)).astype("<f2")
        blocks[:, :2] = scales.view(np.uint8).reshape(n_blocks, 2)
        yield blocks.tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=tuple(SPECIAL), metavar="FAMILY", help=", ".join(SPECIAL))
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write: NAME.bin")
    parser.add_argument("--parameters", choices=tuple(SIZES), default="1b", help="default: 1b")
    parser.add_argument("--type", choices=tuple(_TYPES), default="q4_0", help="default: q4_0")
    options = parser.parse_args()
    try:
        n_bytes = write(plan(options.family, options.parameters, options.type), options.target)
        inspect(options.target)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{options.target}: {n_bytes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
