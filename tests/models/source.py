"""The Hugging Face folders of the models here, with the tokenizers of their families.

Their settings are taken as they are, and not checked: nothing else is ever read with this.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model.byte_level import bytes_of
from shared.model.gguf import TokenType

FOLDER = Path(__file__).parent
Weights = dict[str, NDArray[Any]]
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Model:
    """A model of the ``hf`` folder, with the tokenizer of its family."""

    def __init__(self, name: str) -> None:
        folder = FOLDER / "hf" / name
        self.name = name
        self.config = json.loads((folder / "config.json").read_text())
        self.settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.family = str(self.config["model_type"])
        self.tokenizer = json.loads((FOLDER / "tokenizers" / f"{self.family}.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.n_layer = self.number("num_hidden_layers", "n_layer", "n_layers")
        self.n_embd = self.number("hidden_size", "n_embd", "d_model")
        self.n_head = self.number("num_attention_heads", "n_head", "n_heads")

    def number(self, *names: str) -> int:
        return next(int(self.config[name]) for name in names if name in self.config)

    @cached_property
    def vocabulary(self) -> list[tuple[bytes, TokenType]]:
        """Each id's bytes and type, up to as many as the embedding has rows."""
        known = {}
        for text, token in self.tokenizer["model"]["vocab"].items():
            known[token] = (bytes_of(text) or text.encode(), TokenType.NORMAL)
        for entry in self.tokenizer["added_tokens"]:
            kind = TokenType.CONTROL if entry["special"] else TokenType.USER_DEFINED
            known[entry["id"]] = (entry["content"].encode(), kind)
        return [
            known.get(token, (b"[PAD%d]" % token, TokenType.UNUSED))
            for token in range(self.config["vocab_size"])
        ]

    @property
    def words(self) -> list[bytes]:
        return [word for word, _ in self.vocabulary]

    @property
    def merges(self) -> list[bytes]:
        merges = self.tokenizer["model"]["merges"]
        return [" ".join(m).encode() if isinstance(m, list) else m.encode() for m in merges]

    def take(self, names: Iterable[str]) -> Weights:
        return {name: self.weights[name] for name in names if name in self.weights}

    def of_layers(self, prefix: str, names: Iterable[str]) -> Weights:
        names = list(names)
        return self.take(f"{prefix}.{n}.{name}" for n in range(self.n_layer) for name in names)


def read_safetensors(path: Path) -> Weights:
    """All tensors in 32-bit floats."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[start + first : start + end], _TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a 32-bit float
            values = (values.astype("<u4") << 16).view("<f4")
        weights[name] = values.astype("<f4").reshape(entry["shape"])
    return weights
