"""Finds the one model that MODEL_NAME and MODEL_FILE mean, on this machine or on the hub."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gateway import demo_model, hub
from gateway.model_choice import TOKENIZER_NAME, choose
from shared.errors import UsageError
from shared.model.description import ModelFile
from shared.model.gguf_rewrite import Progress, rewrite, stderr_progress
from shared.model.inspect import inspect


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to be served.

    Attributes:
        file: checked, and in a form that the engine can load.
        name: the id that clients see.
        file_name: what the file was called where it came from.
        tokenizer: a ``tokenizer.json`` that came with it.
    """

    file: ModelFile
    name: str
    file_name: str
    tokenizer: Path | None = None


def resolve(
    model_name: str | None,
    model_file: str | None = None,
    model_type: str | None = None,
    progress: Callable[[str], Progress] = stderr_progress,
) -> ModelSource:
    """Return the model to serve, downloaded and rewritten if it has to be.

    Args:
        model_name: a file, a folder, or the id of a repository on the hub; None means the demo
            model.
        model_file: which file in the folder or repository.
        model_type: the family that the file has to be of; None takes what it is.
        progress: makes a progress function from a label.

    Raises:
        UsageError: the names do not lead to one file that can be served.
    """
    if not model_name:
        if model_file:
            raise UsageError(
                f"MODEL_FILE={model_file} picks a file in the folder or repository that "
                "MODEL_NAME names, but MODEL_NAME is not set"
            )
        demo = demo_model.fetch()
        return ModelSource(inspect(demo, model_type), demo_model.DEMO_MODEL.name, demo.name)
    if model_file:
        _check_inside(model_file)
    path = Path(model_name).expanduser()
    if _exists(path):
        if path.is_dir():
            path = _file_in_folder(path, model_file)
        elif model_file and model_file != path.name:
            raise UsageError(
                f"MODEL_NAME={model_name} is a file, so MODEL_FILE={model_file} has no meaning"
            )
        name, tokenizer = path.stem, path.parent / TOKENIZER_NAME
    elif hub.may_be_repository(model_name):
        fetched = hub.fetch(model_name, model_file)
        name, path, tokenizer = model_name, fetched.model, fetched.tokenizer or Path()
    else:
        raise UsageError(f"MODEL_NAME={model_name}: no such file or folder")
    file = servable(path, model_type, progress)
    return ModelSource(file, name, path.name, tokenizer if tokenizer.is_file() else None)


def servable(
    path: Path,
    model_type: str | None = None,
    progress: Callable[[str], Progress] = stderr_progress,
) -> ModelFile:
    """Return a file with the model of ``path`` that the engine can load.

    That is ``path`` itself, or a copy of it that is rewritten once and kept in the cache.

    Raises:
        UsageError: the engine cannot serve it in any form.
    """
    file = inspect(path, model_type)
    if not file.needs_rewrite:
        return file
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    target = demo_model.default_cache_dir() / f"{path.stem}-{key}.gguf"

    def build(scratch: Path) -> Path:
        rewritten = scratch / "rewritten.gguf"
        rewrite(path, rewritten, progress(f"Rewriting {path.name} for the engine, only once"))
        return rewritten

    return inspect(demo_model.make_once(target, build))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A name that no file can have, e.g. one that is too long.
        return False


def _check_inside(model_file: str) -> None:
    path = PurePosixPath(model_file)
    if path.is_absolute() or Path(model_file).is_absolute() or ".." in path.parts:
        raise UsageError(
            f"MODEL_FILE={model_file}: it has to be a path inside the folder or repository that "
            "MODEL_NAME names"
        )


def _file_in_folder(folder: Path, model_file: str | None) -> Path:
    try:
        if model_file:
            path = folder / model_file
            if path.is_file():
                return path
        names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"MODEL_NAME={folder}: cannot be read: {reason}") from error
    return folder / choose(f"the folder {folder}", names, model_file)
