"""Gets the source of ctransformers: exactly the version that is installed."""

import sys
import tarfile
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path

from shared.errors import EngineError, UsageError
from worker.build.process import run

_PACKAGE = "ctransformers"
_WANTED_FILES = ("CMakeLists.txt", "models/llm.cc", "models/ggml/ggml.c")
NO_PIP = (
    "this Python environment has no pip (uv makes them so): install it with `uv pip install pip`"
)


def unpacked_source(given: Path | None, version: str, scratch: Path) -> Path:
    """Return the folder of the unpacked source.

    Args:
        given: the source distribution, or a folder with it unpacked; None downloads it with pip.
        version: what it has to be.
        scratch: an empty folder for what comes in between.

    Raises:
        EngineError: it cannot be had, or is something else.
        UsageError: there is no such file or folder.
    """
    if given is not None and not given.exists():
        raise UsageError(f"--source {given}: no such file or folder")
    if given is not None and given.is_dir():
        folder = given.absolute()
    else:
        folder = _unpack(given or _download(version, scratch), scratch / "source")
    _check(folder, version, given or folder)
    return folder


def _download(version: str, scratch: Path) -> Path:
    if find_spec("pip") is None:
        raise EngineError(f"{NO_PIP}, or name the source distribution with --source FILE")
    requirement = f"{_PACKAGE}=={version}"
    options = ["--disable-pip-version-check", "--no-input", "--no-deps", "--progress-bar=off"]
    run(
        f"downloading the source of {requirement} with pip",
        [
            *(sys.executable, "-m", "pip", "download", *options),
            *("--no-binary", _PACKAGE, "--dest", str(scratch), requirement),
        ],
        "check the network and pip's settings, or name the source distribution"
        f" ({_PACKAGE}-{version}.tar.gz) with --source FILE; pip says:",
    )
    archives = list(scratch.glob("*.tar.gz"))
    if len(archives) != 1:
        raise EngineError(f"pip brought no source distribution of {requirement}")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> Path:
    try:
        with tarfile.open(archive) as opened:
            # Older patch releases of Python do not know the filter; what is unpacked is about to
            # be compiled and run, so it is trusted as it is.
            if hasattr(tarfile, "data_filter"):
                opened.extractall(folder, filter="data")
            else:
                opened.extractall(folder)  # nosec B202
    except (tarfile.TarError, EOFError) as error:
        raise EngineError(f"{archive}: not a source distribution (.tar.gz): {error}") from error
    inner = list(folder.iterdir())
    if len(inner) != 1 or not inner[0].is_dir():
        raise EngineError(f"{archive}: not a source distribution, which holds one folder")
    return inner[0]


def _check(folder: Path, version: str, named: Path) -> None:
    try:
        told = HeaderParser().parsestr((folder / "PKG-INFO").read_text(errors="replace"))
    except OSError:
        raise EngineError(
            f"{named}: not the source distribution of {_PACKAGE}: it has no PKG-INFO"
        ) from None
    if (told["Name"], told["Version"]) != (_PACKAGE, version):
        raise EngineError(
            f"{named}: is {told['Name']} {told['Version']}, and {_PACKAGE} {version}, which is"
            " installed, is needed"
        )
    missing = [name for name in _WANTED_FILES if not (folder / name).is_file()]
    if missing:
        raise EngineError(f"{named}: not the whole source of {_PACKAGE}: {missing[0]} is missing")
