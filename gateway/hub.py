"""Finds the model that ``MODEL_NAME`` and ``MODEL_FILE`` mean: a file, a folder, a repository.

A repository is one of the Hugging Face hub, which is asked only for what its cache does not have.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from gateway import demo_model
from gateway.candidates import SUFFIXES, choose
from shared.errors import UsageError
from shared.model.description import ModelFile
from shared.model.gguf_rewrite import rewrite, stderr_progress
from shared.model.inspect import inspect
from shared.model.split import model_stem, part_names

AnswerT = TypeVar("AnswerT")

_TOKENIZER = "tokenizer.json"
# A quantisation after the name of a repository.
_TAG = re.compile(r"(?P<repository>[^:]+):(?P<tag>[\w.-]+)", re.ASCII)
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to be served."""

    #: Checked, and in a form that the engine can load.
    file: ModelFile
    #: The id that clients see.
    name: str
    #: What the file was called where it came from.
    file_name: str
    #: A ``tokenizer.json`` that came with it.
    tokenizer: Path | None = None


class _HubUnreachableError(UsageError):
    """The hub gave no answer; a cached file may do."""


def resolve(
    model_name: str | None,
    model_file: str | None = None,
    model_type: str | None = None,
    engine: str = "auto",
) -> ModelSource:
    """Find the model to serve; download and rewrite it if it has to be.

    Raises:
        UsageError: the names do not lead to one file that can be served.
    """
    if not model_name:
        if model_file:
            raise UsageError(
                f"MODEL_FILE={model_file} picks a file in the folder or repository that "
                "MODEL_NAME names, but MODEL_NAME is not set"
            )
        demo = demo_model.DEMO_MODEL
        file = servable(demo_model.fetch(), model_type, engine)
        return ModelSource(file, demo.name, PurePosixPath(demo.member).name)
    if model_file and (Path(model_file).is_absolute() or ".." in PurePosixPath(model_file).parts):
        raise UsageError(
            f"MODEL_FILE={model_file}: it has to be a path inside the folder or repository that "
            "MODEL_NAME names"
        )
    path = Path(model_name).expanduser()
    if os.path.exists(path):  # False also for a name that no file can have
        path = _local_file(path, model_name, model_file)
        name, tokenizer = model_stem(path), path.parent / _TOKENIZER
    elif model_name.lower().endswith(SUFFIXES):
        raise UsageError(f"MODEL_NAME={model_name}: no such file or folder")
    else:
        name, (path, tokenizer) = model_name, _fetch(model_name, model_file)
    file = servable(path, model_type, engine)
    return ModelSource(file, name, path.name, tokenizer if tokenizer.is_file() else None)


def servable(path: Path, model_type: str | None = None, engine: str = "auto") -> ModelFile:
    """Return ``path``, or a copy of it that is rewritten once for the engine, and cached.

    Raises:
        UsageError: the engine cannot serve it in any form.
    """
    file = inspect(path, model_type, engine)
    if not file.needs_rewrite:
        return file
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    target = demo_model.default_cache_dir() / f"{path.stem}-{key}.gguf"

    def build(scratch: Path) -> Path:
        rewritten = scratch / "rewritten.gguf"
        label = f"Rewriting {path.name} for the engine, only once"
        rewrite(path, rewritten, stderr_progress(label))
        return rewritten

    return inspect(demo_model.make_once(target, build))


def _local_file(path: Path, model_name: str, model_file: str | None) -> Path:
    if not path.is_dir():
        if model_file and model_file != path.name:
            raise UsageError(
                f"MODEL_NAME={model_name} is a file, so MODEL_FILE={model_file} has no meaning"
            )
        return path
    try:
        if model_file and os.path.isfile(path / model_file):
            return path / model_file
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
    except OSError as error:
        raise UsageError(f"MODEL_NAME={path}: cannot be read: {error.strerror}") from error
    return path / choose(f"the folder {path}", names, model_file)


def _fetch(model_name: str, model_file: str | None) -> tuple[Path, Path]:
    """The model in the hub's cache, and its tokenizer, which may not be there.

    Raises:
        UsageError: there is no such repository or file, or it cannot be fetched.
    """
    match = _TAG.fullmatch(model_name)
    repository, tag = (match["repository"], match["tag"]) if match else (model_name, None)
    if tag and model_file:
        raise UsageError(
            f"MODEL_NAME={model_name} picks a file by its quantisation, so MODEL_FILE={model_file}"
            " has no meaning"
        )
    place = f"the repository {repository}"
    # The choice is noted, so that a later start need not ask.
    name = model_name.replace("/", "--")
    note = demo_model.default_cache_dir() / "hub" / f"{name}.txt"
    snapshot = _cached_snapshot(repository)
    choice = model_file or _read(note)
    if snapshot and choice and all((snapshot / part).is_file() for part in part_names(choice)):
        return snapshot / choice, snapshot / _TOKENIZER
    try:
        names = _names_on_hub(repository)
    except _HubUnreachableError as error:
        if snapshot is None:
            raise
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.*")]
        try:
            model = _complete(f"what is cached of {place}", names, model_file, tag)
        except UsageError as nothing:
            raise UsageError(f"{error}; {nothing}") from error
        return snapshot / model, snapshot / _TOKENIZER
    chosen = _complete(place, names, model_file, tag)
    if not model_file:
        with contextlib.suppress(OSError):  # only a later start without network would use it
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(chosen, "utf-8")
    if _TOKENIZER in names:
        _download(repository, _TOKENIZER)
    paths = [_download(repository, part) for part in part_names(chosen)]
    return paths[0], paths[0].parents[chosen.count("/")] / _TOKENIZER


def _complete(place: str, names: list[str], model_file: str | None, tag: str | None) -> str:
    """The model that is meant, of which no part is missing.

    Raises:
        UsageError: as `choose`, or a part is missing.
    """
    chosen = choose(place, names, model_file, tag)
    if part := next((part for part in part_names(chosen) if part not in names), None):
        raise UsageError(f"{place} has {chosen}, but not {part}, which is a part of this model")
    return chosen


def _names_on_hub(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    info = _asked(repository, lambda: HfApi().model_info(repository, timeout=_TIMEOUT_SECONDS))
    return [sibling.rfilename for sibling in info.siblings or ()]


def _download(repository: str, name: str) -> Path:
    import huggingface_hub

    # Whoever names a repository wants its newest revision; the file is checked before use.
    download = huggingface_hub.hf_hub_download
    return Path(_asked(repository, lambda: download(repository, name)))  # nosec B615


def _asked(repository: str, question: Callable[[], AnswerT]) -> AnswerT:
    """The hub's answer; what goes wrong becomes a sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    nothing_here = f"MODEL_NAME={repository} is no file or folder here, and"
    try:
        return question()
    except HFValidationError as error:
        raise UsageError(f"MODEL_NAME={repository}: no such file or folder") from error
    except GatedRepoError as error:
        raise UsageError(
            f"the repository {repository} is gated: accept its terms on the hub, then set HF_TOKEN "
            "to a token of that account"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise UsageError(
                f"{nothing_here} {constants.ENDPOINT} has no such repository, or it is a private "
                "one (then set HF_TOKEN)"
            ) from error
        raise _HubUnreachableError(
            f"{constants.ENDPOINT} answered with status {status} when asked for {repository}"
        ) from error
    except Exception as error:
        # What the library raises for a dead network depends on its version's HTTP client.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _HubUnreachableError(
            f"{nothing_here} the hub {constants.ENDPOINT} cannot be asked for it: {reason}"
        ) from error


def _cached_snapshot(repository: str) -> Path | None:
    """The folder with what is cached of the repository's main branch."""
    # Takes a third of a second, which a start with a local file need not spend.
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Nothing is fetched here, so no revision need be named.
        folder = huggingface_hub.snapshot_download(repository, local_files_only=True)  # nosec B615
        return Path(folder)
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8") or None
    except (OSError, ValueError):
        return None
