"""``ggml-fastapi build-engine``: compiles the engine's library for this machine's CPU.

pip builds the source distribution of ctransformers. The library serves from the next start on, if
it passes a comparison with the package's own.
"""

import argparse
import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from shared.atomic_file import atomic_file
from shared.errors import EngineError, UsageError
from shared.exit_status import ended
from shared.model.library import (
    FILE_NAME,
    LOCAL,
    RECIPE,
    Cpu,
    Record,
    choose,
    engine_version,
    find,
    library_path,
    package_library,
    record_path,
)
from worker.build.self_test import MODELS, self_test

_TARGET_OPTIONS = {"x86_64": "-march=native", "aarch64": "-mcpu=native"}
_OPTIONS = (
    # The inner loops are dot products of some ten blocks, whose overhead was a fifth of the time.
    "-funroll-loops",
    # Else products are rounded in the vectorised part of a loop and not in what is left over, and
    # so a token's logits depend on where the chunk that it is evaluated in ends.
    "-ffp-contract=off",
)
"""Beside CMake's own for a release (``-O3``)."""
_COMPILERS = {
    "CC": ("C", ("cc", "gcc", "clang")),
    "CXX": ("C++", ("c++", "g++", "clang++")),
}
_PIP_OPTIONS = (
    # No cache: a wheel in it may have been built with other options.
    "--disable-pip-version-check", "--no-input", "--no-deps", "--no-cache-dir",
    "--progress-bar=off", "--no-binary", "ctransformers",
)  # fmt: skip
_SCRATCH = "tmp-"
_CLEARING_S = 10.0
_SHOWN_LINES = 20


def main(arguments: Sequence[str], cache_dir: Path) -> int:
    """Run the command line; the library is put into the folder ``engine`` of the cache.

    Returns:
        The exit status: 0; 1 if the library could not be built; 2 for a mistake in the arguments.
    """
    parser = argparse.ArgumentParser(
        prog="ggml-fastapi build-engine", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--check", action="store_true", help="only say which library the server would use"
    )
    parser.add_argument("--force", action="store_true", help="build it even if there is one")
    options = parser.parse_args(arguments)
    logging.basicConfig(format=f"{parser.prog}: %(message)s", force=True)
    try:
        if options.check:
            library = choose(None, cache_dir)
            print(f"{library.label}\n{library.path}")
        else:
            _build(cache_dir, options.force)
        return 0
    except (EngineError, UsageError) as error:
        said = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror or error}"
    except KeyboardInterrupt:
        said = "interrupted; no library has been put into the cache"
    print(f"{parser.prog}: {said}", file=sys.stderr)
    return 1


def _build(cache_dir: Path, force: bool) -> None:
    cpu, version = Cpu.here(), engine_version()
    target = library_path(cache_dir, version, cpu)
    # SIGTERM cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    with _only_one(target.parent):
        there = None if force else find(cache_dir, version, cpu)
        if there is not None:
            _say(f"There is a native build already (--force builds it anew):\n{there}")
            return
        with _scratch_in(target.parent) as scratch:
            keep(*_tested(scratch, cpu, version), target)
    _say(f"The server uses it from its next start on: {target}")


def _tested(scratch: Path, cpu: Cpu, version: str) -> tuple[Path, Record]:
    compilers = {variable: _compiler(variable) for variable in _COMPILERS}
    compiler = _first_line([*shlex.split(compilers["CXX"]), "--version"])
    options = " ".join(filter(None, (_TARGET_OPTIONS.get(platform.machine()), *_OPTIONS)))
    _say(f"Compiling for {cpu.name} with {compiler}, {options} (a minute or so) ...")
    library = _compiled(scratch, version, {**compilers, "CFLAGS": options, "CXXFLAGS": options})
    try:
        reference = package_library(cpu)
        path, label = reference.path, reference.label
    except UsageError:
        path, label = "", "itself, as ctransformers has no library for this machine"
    _say(f"Comparing it with {label} ...")
    (scratch / "models").mkdir()
    difference = self_test(library, path, scratch / "models")
    if difference is not None:
        _say(f"{len(MODELS)} models agree to rounding.")
    sha256 = hashlib.sha256(library.read_bytes()).hexdigest()
    return library, Record(
        RECIPE, version, cpu.name, cpu.digest, compiler, options, label, difference, sha256
    )


def _compiled(scratch: Path, version: str, variables: Mapping[str, str]) -> Path:
    """Let pip build the source distribution, and return the library.

    Raises:
        EngineError: it cannot.
    """
    if find_spec("pip") is None:
        raise EngineError(
            "this Python environment has no pip (uv makes them so): install it with"
            " `uv pip install pip`"
        )
    # These alone are to decide, so that what is in the cache can be told by its name.
    empty = dict.fromkeys(("CPPFLAGS", "LDFLAGS", "CMAKE_ARGS", "SKBUILD_CONFIGURE_OPTIONS"), "")
    # No instruction sets of the source's own choice.
    ours = {"CT_INSTRUCTIONS": "basic", "TMPDIR": str(scratch)}
    installed = scratch / "installed"
    where = ("--target", str(installed), f"ctransformers=={version}")
    _run(
        [sys.executable, "-m", "pip", "install", *_PIP_OPTIONS, *where],
        {**os.environ, **empty, **variables, **ours},
    )
    library = installed / "ctransformers" / "lib" / LOCAL / FILE_NAME
    if not library.is_file():
        raise EngineError("the compilation ended well, but made no library")
    return library


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run pip to its end, without a word if it succeeds."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            # Told to end, ninja ends its compilers, which are in process groups of their own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines
        raise EngineError(
            f"building ctransformers with pip failed ({ended(process.returncode)}): check the"
            " network and pip's settings, or name another compiler with CC and CXX; pip says:"
            + "".join(f"\n    {line}" for line in telling[:_SHOWN_LINES])
        )


def _compiler(variable: str) -> str:
    language, usual = _COMPILERS[variable]
    named = os.environ.get(variable, "").strip()
    if named:
        words = shlex.split(named)
        if words and shutil.which(words[0]):
            return named
        raise EngineError(f"{variable}={named}: there is no such {language} compiler")
    for name in usual:
        if shutil.which(name):
            return name
    raise EngineError(
        f"no {language} compiler was found ({variable}, {', '.join(usual)}): install one (on Debian"
        " and Ubuntu: apt install g++; on Fedora: dnf install gcc-c++), or name it with"
        f" {variable}; until then ctransformers' own library serves, where it has one"
    )


def _first_line(command: list[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    return done.stdout.partition("\n")[0].strip()


def keep(library: Path, record: Record, target: Path) -> None:
    """Put both into the cache, in place of those of an older build; on failure that one stays.

    Raises:
        UsageError: they cannot be written.
    """
    content, described = library.read_bytes(), record.to_json()
    with (
        atomic_file(record_path(target), len(described)) as (about, _),
        atomic_file(target, len(content)) as (output, _),
    ):
        # All that a full disk may refuse comes before either takes its name. The library is
        # the first to: without the record that describes it, it is not used.
        about.write(described)
        about.flush()
        os.fsync(about.fileno())
        output.write(content)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let one build at a time work in the cache, and clear away what a killed one has left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another process is building the engine; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


@contextmanager
def _scratch_in(folder: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    try:
        yield scratch
    finally:
        # A compiler that has just been ended may write for a moment yet, and so may put a file into
        # a folder that is being deleted.
        deadline = time.monotonic() + _CLEARING_S
        while scratch.exists() and time.monotonic() < deadline:
            shutil.rmtree(scratch, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
