"""Finds the one model file that MODEL_NAME and MODEL_FILE mean, on this machine or on the hub."""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gateway import demo_model
from shared.errors import UsageError
from shared.gguf_llama import check_llama
from shared.gguf_reader import read_gguf
from shared.gguf_rewrite import Progress, needs_rewrite, rewrite, stderr_progress

_LISTED = 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MODEL_SUFFIXES = (".gguf", ".bin")
_HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to be served.

    Attributes:
        path: a file that the engine can load.
        name: the id that clients see.
    """

    path: Path
    name: str


def resolve(
    model_name: str | None,
    model_file: str | None = None,
    progress: Callable[[str], Progress] = stderr_progress,
) -> ModelSource:
    """Return the file to serve, downloaded and rewritten if it has to be.

    Args:
        model_name: a file, a folder, or the id of a repository on the hub; None means the demo
            model.
        model_file: which file in the folder or repository.
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
        return ModelSource(demo_model.fetch(), demo_model.DEMO_MODEL.name)
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
        return ModelSource(servable(path, progress), path.stem)
    if not _may_be_on_hub(model_name):
        raise UsageError(f"MODEL_NAME={model_name}: no such file or folder")
    return ModelSource(servable(_file_on_hub(model_name, model_file), progress), model_name)


def servable(path: Path, progress: Callable[[str], Progress] = stderr_progress) -> Path:
    """Return a file with the model of ``path`` that the engine can load.

    That is ``path`` itself, or a copy of it that is rewritten once and kept in the cache.

    Raises:
        UsageError: the engine cannot serve it in any form.
    """
    file = read_gguf(path)
    if not needs_rewrite(file):
        check_llama(file)
        return path
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    target = demo_model.default_cache_dir() / f"{path.stem}-{key}.gguf"

    def build(scratch: Path) -> Path:
        rewritten = scratch / "rewritten.gguf"
        rewrite(path, rewritten, progress(f"Rewriting {path.name} for the engine, only once"))
        return rewritten

    return demo_model.make_once(target, build)


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


def _may_be_on_hub(name: str) -> bool:
    return (
        _HUB_ID.fullmatch(name) is not None
        and not name.lower().endswith(_MODEL_SUFFIXES)
        and ".." not in name
        and "--" not in name
        and len(name) <= 96
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
    return folder / _choose(f"the folder {folder}", names, model_file)


def _choose(place: str, names: Iterable[str], model_file: str | None) -> str:
    """Return the one name that is meant."""
    names = sorted(names)
    candidates = [name for name in names if name.lower().endswith(".gguf")]
    if model_file:
        if model_file in names:
            return model_file
        raise UsageError(f"MODEL_FILE={model_file} is not in {place}; {_found(names)}")
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UsageError(
            f"{place} holds several models; pick one with MODEL_FILE: {_listed(candidates)}"
        )
    raise UsageError(f"{place} holds no *.gguf file; {_found(names)}")


def _found(names: list[str]) -> str:
    models = [name for name in names if name.lower().endswith(_MODEL_SUFFIXES)]
    return f"found there: {_listed(models or names)}"


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _file_on_hub(repository: str, model_file: str | None) -> Path:
    """Return the file in the hub's cache; the hub is asked only for what is not there."""
    # Takes a third of a second, which a start with a local file need not spend.
    import huggingface_hub

    place = f"the repository {repository}"
    note = _note_of_choice(repository)
    chosen = model_file or _read(note)
    if chosen:
        cached = huggingface_hub.try_to_load_from_cache(repository, chosen)
        if isinstance(cached, str):
            return Path(cached)
    try:
        chosen = _choose(place, _names_on_hub(repository), model_file)
    except _HubUnreachableError as error:
        snapshot = _cached_snapshot(repository)
        if snapshot is None:
            raise
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.*")]
        try:
            return snapshot / _choose(f"what is cached of {place}", names, model_file)
        except UsageError as nothing:
            raise UsageError(f"{error}; {nothing}") from error
    if not model_file:
        _write(note, chosen)
    return _download(repository, chosen)


class _HubUnreachableError(UsageError):
    """The hub gave no answer; a cached file may do."""


def _names_on_hub(repository: str) -> list[str]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(repository, timeout=_HUB_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise UsageError(f"MODEL_NAME={repository}: no such file or folder") from error
    except GatedRepoError as error:
        raise UsageError(_gated(repository)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise UsageError(
                f"MODEL_NAME={repository} is no file or folder here, and {constants.ENDPOINT} has "
                "no such repository, or it is a private one (then set HF_TOKEN)"
            ) from error
        raise _HubUnreachableError(
            f"{constants.ENDPOINT} answered with status {status} when asked for {repository}"
        ) from error
    except Exception as error:
        # What the library raises for a dead network depends on its version's HTTP client.
        raise _HubUnreachableError(
            f"MODEL_NAME={repository} is no file or folder here, and the hub {constants.ENDPOINT} "
            f"cannot be asked for it: {_first_line(error)}"
        ) from error
    return [sibling.rfilename for sibling in info.siblings or ()]


def _cached_snapshot(repository: str) -> Path | None:
    """Return the folder with what is cached of the repository's main branch."""
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        snapshot = cached / "snapshots" / (cached / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    return snapshot if snapshot.is_dir() else None


def _download(repository: str, name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except GatedRepoError as error:
        raise UsageError(_gated(repository)) from error
    except Exception as error:
        raise UsageError(
            f"{name} of {repository} could not be downloaded: {_first_line(error)}"
        ) from error


def _gated(repository: str) -> str:
    return (
        f"the repository {repository} is gated: accept its terms on the hub, then set HF_TOKEN "
        "to a token of that account"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _note_of_choice(repository: str) -> Path:
    """Return where the repository's only candidate is noted, so that a later start need not ask."""
    name = repository.replace("/", "--")
    return demo_model.default_cache_dir() / "hub" / f"{name}.txt"


def _read(note: Path) -> str | None:
    try:
        return note.read_text("utf-8") or None
    except (OSError, ValueError):
        return None


def _write(note: Path, text: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=note.parent, delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, note)
    except OSError:
        # Only a later start without network would have used it.
        pass
