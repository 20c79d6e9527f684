"""Fetches a model from the Hugging Face hub, or takes it from the hub's cache without asking."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gateway import demo_model
from gateway.model_choice import MODEL_SUFFIXES, TOKENIZER_NAME, choose
from shared.errors import UsageError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HubFiles:
    """What was fetched from a repository.

    Attributes:
        model: the model file.
        tokenizer: its ``tokenizer.json``, if the repository has one.
    """

    model: Path
    tokenizer: Path | None


def may_be_repository(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    return (
        _HUB_ID.fullmatch(name) is not None
        and not name.lower().endswith(MODEL_SUFFIXES)
        and ".." not in name
        and "--" not in name
        and len(name) <= 96
    )


def fetch(repository: str, model_file: str | None) -> HubFiles:
    """Return the files in the hub's cache; the hub is asked only for a model that is not there.

    Args:
        repository: its id, ``owner/name``.
        model_file: which file of it; None for the only model.

    Raises:
        UsageError: there is no such repository or file, or it cannot be fetched.
    """
    # Takes a third of a second, which a start with a local file need not spend.
    import huggingface_hub

    place = f"the repository {repository}"
    note = _note_of_choice(repository)
    chosen = model_file or _read(note)
    if chosen:
        cached = huggingface_hub.try_to_load_from_cache(repository, chosen)
        if isinstance(cached, str):
            tokenizer = huggingface_hub.try_to_load_from_cache(repository, TOKENIZER_NAME)
            return HubFiles(Path(cached), Path(tokenizer) if isinstance(tokenizer, str) else None)
    try:
        names = _names_on_hub(repository)
    except _HubUnreachableError as error:
        snapshot = _cached_snapshot(repository)
        if snapshot is None:
            raise
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.*")]
        try:
            model = snapshot / choose(f"what is cached of {place}", names, model_file)
        except UsageError as nothing:
            raise UsageError(f"{error}; {nothing}") from error
        return HubFiles(model, snapshot / TOKENIZER_NAME if TOKENIZER_NAME in names else None)
    chosen = choose(place, names, model_file)
    if not model_file:
        _write(note, chosen)
    # The model last: once it is in the cache, nothing more is asked for.
    tokenizer = _download(repository, TOKENIZER_NAME) if TOKENIZER_NAME in names else None
    return HubFiles(_download(repository, chosen), tokenizer)


class _HubUnreachableError(UsageError):
    """The hub gave no answer; a cached file may do."""


def _names_on_hub(repository: str) -> list[str]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(repository, timeout=_TIMEOUT_SECONDS)
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
        # Whoever names a repository wants its newest revision; the file is checked before use.
        path = huggingface_hub.hf_hub_download(repository, name)  # nosec B615
        return Path(path)
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
