"""Models whose tensors lie in several GGUF files, as llama.cpp's ``gguf-split`` writes them."""

import re
from dataclasses import replace
from pathlib import Path

from shared.errors import ModelFileError
from shared.model.gguf import GGUFFile
from shared.model.gguf_reader import read_gguf

_PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
_MOST_PARTS = 1000


def part_names(name: str) -> list[str]:
    """The names of all files of the model that a file belongs to, the first one first."""
    match = _PART.fullmatch(name)
    count = int(match["count"]) if match else 1
    if match is None or count > _MOST_PARTS:
        return [name]
    return [f"{match['model']}-{number:05}-of-{match['count']}.gguf"
            for number in range(1, count + 1)]  # fmt: skip


def model_stem(path: Path) -> str:
    """The name of a model's file without its suffix, and without the number of a part."""
    match = _PART.fullmatch(path.name)
    return match["model"] if match else path.stem


def read_whole(path: Path) -> GGUFFile:
    """Read the header of a GGUF file, and of its other parts where there are some.

    What it gives has the metadata of the first part, and the tensors and bytes of all.

    Raises:
        ModelFileError: as `read_gguf`; a part is missing, or is not the part that it should be.
    """
    first = read_gguf(path)
    count = _number(first, _COUNT, 1)
    if count in (0, 1):
        return first
    names = part_names(path.name)
    if not 1 <= count <= _MOST_PARTS or len(names) != count:
        example = f"{path.stem}-00001-of-{min(max(count, 0), 99_999):05}.gguf"
        first.fail(f"a part of a model of {count:,} files; the first should be called {example}")
    if names[0] != path.name:
        first.fail(f"it is not the first part of its model; name {names[0]}")
    parts = [first, *(_read_part(path.with_name(name)) for name in names[1:])]
    for number, part in enumerate(parts):
        found = _number(part, _NUMBER, -1), _number(part, _COUNT, 1)
        if found != (number, count):
            part.fail(
                f"damaged: by its name it is part {number + 1} of {count}, by its metadata"
                f" {_NUMBER} is {found[0]} and {_COUNT} {found[1]}"
            )
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    promised = _number(first, _TENSORS, len(tensors))
    if promised != len(tensors) or len({tensor.name for tensor in tensors}) < promised:
        first.fail(
            f"damaged: {_TENSORS} is {promised:,}, but its {count} parts have {len(tensors):,}"
            " tensors, or the same one twice"
        )
    return replace(
        first, tensors=tensors, n_bytes=sum(part.n_bytes for part in parts), n_parts=count
    )


def _read_part(path: Path) -> GGUFFile:
    if not path.exists():
        raise ModelFileError.about(path, "this part of the model is missing")
    return read_gguf(path)


def _number(file: GGUFFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int):
        file.fail(f"damaged: its metadata {key} is {value!r:.40}")
    return value
