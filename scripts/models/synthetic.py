#!/usr/bin/env python3
"""Writes a model file of a realistic size with random weights, to measure speed and memory with.

Shapes, vocabulary size and file layout are those of real models, and the server takes the file for
one; it talks nonsense. Nothing but numpy and this repository is needed.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from shared.model.byte_level import LETTERS
from shared.model.inspect import inspect
from shared.model.tensors import TENSOR_TYPES
from worker.convert.config import Config
from worker.convert.families import FAMILIES
from worker.convert.layout import Layout, Part, Request
from worker.convert.output import write
from worker.convert.source import ModelFolder, Weights
from worker.convert.tensors import Tensor, Weight, WeightType

_BLOCK_ELEMENTS = 1 << 22
_LONGEST_PART = 4
"""Letters of a token that longer ones are made of."""

SPECIAL: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "falcon": (FALCON_SPECIAL, ()),
    "starcoder": (STARCODER_SPECIAL, ()),
    "mpt": (NEOX_SPECIAL, SPACES),
}
"""Per family: tokens before all others, and after them."""
N_MPT_TOKENS = 50_277
"""MPT's vocabulary is padded to 50,432."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: width, attention heads, blocks."""

    n_embd: int
    n_head: int
    n_layer: int


SIZES = {
    "100m": {family: Shape(768, 12, 8) for family in ("falcon", "starcoder", "mpt")},
    "1b": {family: Shape(2048, 32, 24) for family in ("falcon", "starcoder", "mpt")},
    "7b": {
        "falcon": Shape(4544, 71, 32),
        "starcoder": Shape(4096, 32, 42),
        "mpt": Shape(4096, 32, 32),
    },
}
"""Shapes by the number of parameters that they come to, roughly, and by family."""


def config_of(family: str, shape: Shape) -> dict[str, Any]:
    """What the ``config.json`` of such a model says."""
    if family == "falcon":
        return {
            "model_type": "falcon", "vocab_size": 65_024, "hidden_size": shape.n_embd,
            "num_attention_heads": shape.n_head, "num_hidden_layers": shape.n_layer,
        }  # fmt: skip
    if family == "starcoder":
        return {
            "model_type": "gpt_bigcode", "vocab_size": 49_152, "n_positions": 2048,
            "n_embd": shape.n_embd, "n_head": shape.n_head, "n_layer": shape.n_layer,
        }  # fmt: skip
    return {
        "model_type": "mpt", "vocab_size": 50_432, "max_seq_len": 2048, "d_model": shape.n_embd,
        "n_heads": shape.n_head, "n_layers": shape.n_layer,
    }  # fmt: skip


class Merger:
    """Byte-pair merges, the earliest first."""

    def __init__(self) -> None:
        """Begin without any."""
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


def make_tokenizer(family: str, n_vocab: int) -> dict[str, Any]:
    """A ``tokenizer.json`` with invented words, whose merges follow from the ids."""
    first, last = SPECIAL[family]
    n_merged = n_vocab - len(last)
    texts = [*first, *LETTERS]
    known, merger, rng = set(texts), Merger(), np.random.default_rng(0)
    words = [LETTERS[byte] for byte in b"abcdefghijklmnopqrstuvwxyz"]
    starts = [*words, *(LETTERS[byte] for byte in b" ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    while len(texts) < n_merged:
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
    special = {text: texts.index(text) for text in first}
    special |= {text: n_merged + number for number, text in enumerate(last)}
    return {
        "model": {
            "type": "BPE",
            "vocab": {text: token for token, text in enumerate(texts)},
            "merges": [list(pair) for pair in merger.ranks],
        },
        "added_tokens": [
            {"id": token, "content": text, "special": bool(text.strip())}
            for text, token in special.items()
        ],
    }


class AnyWeights(Weights):
    """Every tensor that is asked for: norms of one, the rest zero."""

    def __init__(self) -> None:
        """Take up no memory."""
        self._taken = set()

    def take(self, name: str, shape: Sequence[int]) -> Weight:
        """Return a tensor."""
        is_norm = name.endswith("weight") and len(shape) == 1
        return Weight(name, np.broadcast_to(np.float32(is_norm), tuple(shape)))

    def __contains__(self, name: str) -> bool:
        """Whether a checkpoint would have that tensor; output layers are the embedding's."""
        return False

    def finish(self) -> None:
        """Nothing is left over."""


class AnyFolder(ModelFolder):
    """A model folder with a configuration and a tokenizer, but no files of weights."""

    def __init__(self, path: Path) -> None:
        """Read the configuration."""
        self.path = path
        self.config = Config.read(path / "config.json")
        self.weights = AnyWeights()


def plan(family: str, size: str, weight_type: WeightType) -> Layout:
    """Plan a file by the converter's own code, and put random data in place of the matrices."""
    config = config_of(family, SIZES[size][family])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        (path / "config.json").write_text(json.dumps(config))
        n_merged = config["vocab_size"] if family != "mpt" else N_MPT_TOKENS
        (path / "tokenizer.json").write_text(json.dumps(make_tokenizer(family, n_merged)))
        converter = FAMILIES[config["model_type"]]
        layout = converter.layout(AnyFolder(path), Request(converter.formats[0], weight_type))
    return replace(layout, parts=[filled(part) for part in layout.parts])


def filled(part: Part) -> Part:
    """The same with random data, if it is a matrix."""
    if isinstance(part, bytes) or len(part.shape) == 1:
        return part
    return replace(part, chunks=lambda: random_chunks(part))


def random_chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Random blocks of weights, whose products with a normed vector have about its length."""
    rng = np.random.default_rng(len(tensor.name))
    left, scale = math.prod(tensor.shape), tensor.shape[-1] ** -0.5
    name, block, block_bytes = TENSOR_TYPES[tensor.tensor_type]
    while left:
        n_elements = min(left, _BLOCK_ELEMENTS)
        left -= n_elements
        if block == 1:
            values = rng.standard_normal(n_elements, np.float32) * np.float32(scale)
            yield values.astype("<f4" if name == "F32" else "<f2").data
            continue
        n_blocks = n_elements // block
        blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
        # The standard deviation of random nibbles, and of random bytes.
        step = scale / (4.61 if name == "Q4_0" else 73.9)
        scales = (step * rng.uniform(0.8, 1.2, n_blocks)).astype("<f2")
        blocks[:, :2] = scales.view(np.uint8).reshape(n_blocks, 2)
        yield blocks.data


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=tuple(SPECIAL), metavar="FAMILY", help=", ".join(SPECIAL))
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write: NAME.bin")
    parser.add_argument("--parameters", choices=tuple(SIZES), default="1b", help="default: 1b")
    types = [weight_type.label for weight_type in WeightType]
    parser.add_argument("--type", choices=types, default="q4_0", help="default: q4_0")
    options = parser.parse_args()
    try:
        layout = plan(options.family, options.parameters, WeightType[options.type.upper()])
        write(layout, options.target, inspect, lambda n_bytes: None)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{options.target}: {layout.n_bytes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
