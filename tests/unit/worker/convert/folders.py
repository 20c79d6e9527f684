"""Model folders for these tests, and changes to them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.models.reference import references
from worker.convert.source import read_shard

SHARD = "model.safetensors"
Tensors = dict[str, NDArray[Any]]


def folder(name: str, parent: Path) -> Path:
    """A copy of a variant's folder that a test may change."""
    return references()[name].copy_folder(parent)


def edit_json(path: Path, changes: dict[str, Any]) -> None:
    """Set entries of a JSON file; a dot in a key leads into an object, None removes it."""
    content = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        *way, last = key.split(".")
        place = content
        for step in way:
            place = place.setdefault(step, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    path.write_text(json.dumps(content), "utf-8")


def read_tensors(model: Path) -> Tensors:
    """The weights of a folder as 32-bit floats."""
    return {
        weight.name: np.concatenate(list(weight.blocks())) for weight in read_shard(model / SHARD)
    }


def edit_tensors(model: Path, change: Callable[[Tensors], None]) -> None:
    """Change the weights of a folder; they become 32-bit floats."""
    tensors = read_tensors(model)
    change(tensors)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, model / SHARD)
