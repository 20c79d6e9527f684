"""One conversion, from the folder to the checked file."""

import sys
from dataclasses import replace
from pathlib import Path

from shared.errors import ModelFileError, UsageError
from worker.convert.families import choose_format, family_of
from worker.convert.layout import Format, Layout, Request
from worker.convert.output import write
from worker.convert.source import ModelFolder
from worker.convert.tensors import WeightType


def convert(
    source: Path,
    target: Path,
    weight_type: WeightType,
    wanted: Format | None = None,
    n_ctx: int | None = None,
) -> Layout:
    """Convert a model; a bar on standard error shows the progress if that is a terminal.

    Args:
        source: a Hugging Face model folder, left as it is.
        target: the file to be written; it appears only when it has been checked.
        weight_type: type of the matrices.
        wanted: layout of the file; None takes the one that suits the family and the name.
        n_ctx: the context length in tokens, where it is to be shorter than the model's own.

    Raises:
        UsageError: the model cannot be converted, or the file cannot be written.
    """
    from tqdm import tqdm

    folder = ModelFolder(source)
    if target.resolve().parent == source.resolve() and target.suffix in (".json", ".safetensors"):
        raise UsageError(f"{target}: would replace a part of the model itself")
    family = family_of(folder)
    request = Request(choose_format(family, target, wanted), weight_type, n_ctx)
    layout = family.layout(folder, request)
    notes = list(layout.notes)
    with tqdm(
        total=layout.n_bytes, unit="B", unit_scale=True, desc=target.name, file=sys.stderr,
        disable=None,
    ) as bar:  # fmt: skip
        write(layout, target, lambda path: notes.extend(_inspect(path, target, layout)), bar.update)
    return replace(layout, notes=tuple(notes))


def _inspect(written: Path, target: Path, layout: Layout) -> list[str]:
    """Check the file as the server will, and return what it has to be told."""
    from shared.model.description import family_named
    from shared.model.inspect import inspect

    try:
        found = inspect(written).family
        meant = family_named(layout.family)
        if meant in (found, None):
            return []
        inspect(written, layout.family)
    except ModelFileError as error:
        problem = str(error).removeprefix(f"{written}: ")
        raise UsageError(f"{target}: the engine could not serve this model: {problem}") from error
    return [f"the file looks like one of another family: serve it with MODEL_TYPE={meant.value}"]
