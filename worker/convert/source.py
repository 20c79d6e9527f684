"""Reads a Hugging Face model folder: settings, weights by name, and where its tokenizer is."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError
from worker.convert.config import Config, read_json_object
from worker.convert.tensors import Weight

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# What old checkpoints hold besides weights: masks and tables that code computes by itself.
_NO_WEIGHTS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


class ModelFolder:
    """A folder as ``save_pretrained`` of the transformers library writes it.

    Attributes:
        path: where it is.
        config: its ``config.json``.
        weights: its ``*.safetensors``.
    """

    def __init__(self, path: Path) -> None:
        """Read everything but the weights themselves.

        Raises:
            UsageError: something is missing or damaged.
        """
        if not path.is_dir():
            raise UsageError(f"{path}: not a folder; a Hugging Face model folder is wanted")
        self.path = path
        self.config = Config.read(path / "config.json")
        if self.config.get("quantization_config") is not None:
            self.config.fail("the weights are quantised already; take the original model")
        self.weights = Weights(path)

    @property
    def name(self) -> str:
        """The folder's name, which is the best that is known of the model's."""
        return self.path.resolve().name

    def head(self, embedding: Weight, names: Sequence[str], tied_by_default: bool) -> Weight | None:
        """Return the output layer, or None where the embedding serves as such.

        Args:
            embedding: of the tokens, (n_vocab, n_embd).
            names: under which checkpoints have the output layer.
            tied_by_default: what a configuration means that does not say.

        Raises:
            UsageError: it is missing, or has another shape than the embedding.
        """
        if self.config.flag("tie_word_embeddings", tied_by_default):
            # Some checkpoints hold a copy, which the transformers library ignores, too.
            for name in names:
                self.weights.leave(name)
            return None
        found = [name for name in names if name in self.weights]
        return self.weights.take(found[0] if found else names[0], embedding.shape)

    def optional(self, name: str) -> Config:
        """One of the folder's other JSON files, empty where there is none."""
        path = self.path / name
        return Config(path, read_json_object(path) if path.is_file() else {})


class Weights:
    """The tensors of a folder; each is to be taken once, with the shape that the settings imply."""

    def __init__(self, folder: Path) -> None:
        """Map the files and read their headers.

        Raises:
            UsageError: there are none, or one is missing or damaged.
        """
        self._folder = folder
        self._weights: dict[str, Weight] = {}
        self._taken: set[str] = set()
        for path in _shards(folder):
            for weight in read_shard(path):
                if weight.name in self._weights:
                    raise UsageError(f"{path}: tensor {weight.name} is in another file, too")
                self._weights[weight.name] = weight

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._weights

    def take(self, name: str, shape: Sequence[int]) -> Weight:
        """Return a tensor; models saved without their head lack the name's first part.

        Raises:
            UsageError: it is missing, or of another shape.
        """
        found = name if name in self._weights else name.partition(".")[2]
        weight = self._weights.get(found)
        if weight is None:
            raise UsageError(f"{self._folder}: tensor {name} is missing")
        if weight.shape != tuple(shape):
            raise UsageError(
                f"{self._folder}: tensor {found} has the shape {weight.shape} "
                f"where config.json implies {tuple(shape)}"
            )
        self._taken.add(found)
        return weight

    def leave(self, name: str) -> None:
        """Say that a tensor is not needed, should it be there."""
        self._taken.add(name)

    def finish(self) -> None:
        """Check that nothing is left over, which would mean that the engine computes less.

        Raises:
            UsageError: a tensor has not been taken.
        """
        left = [name for name in self._weights if name not in self._taken]
        left = [name for name in left if not _NO_WEIGHTS.search(name)]
        if left:
            others = f" (and {len(left) - 1} others)" if len(left) > 1 else ""
            raise UsageError(
                f"{self._folder}: the engine has no use for tensor {left[0]}{others}; "
                "this is not the plain model that config.json names"
            )


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        names = read_json_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(map(_is_file_name, names.values())):
            raise UsageError(f"{index}: has no list of files (weight_map)")
        return [folder / name for name in sorted(set(names.values()))]
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UsageError(
            f"{folder}: has no *.safetensors; other formats of weights can run code when they are "
            "read, save the model anew with save_pretrained(..., safe_serialization=True)"
        )
    return paths


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def read_shard(path: Path) -> list[Weight]:
    """Map the tensors of a safetensors file.

    Raises:
        UsageError: it is missing or damaged, or holds something other than floats.
    """
    import safetensors

    try:
        # The library checks that the header fits the file. It cannot hand out the tensors
        # themselves, as numpy has no bfloat16.
        with safetensors.safe_open(path, framework="numpy"):
            data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read as safetensors: {reason}") from error
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    return [
        Weight(name, _mapped(path, data[start:], name, entry)) for name, entry in header.items()
    ]


def _mapped(path: Path, data: NDArray[Any], name: str, entry: dict[str, Any]) -> NDArray[Any]:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        if _NO_WEIGHTS.search(name):
            return np.empty(0, np.float32)
        raise UsageError(
            f"{path}: tensor {name} is of the type {entry['dtype']}; {', '.join(_DTYPES)} are known"
        )
    first, end = entry["data_offsets"]
    mapped: NDArray[Any] = data[first:end].view(dtype).reshape(entry["shape"])
    return mapped
