"""``ggml-fastapi build-engine``: compiles the engine's library for this machine's CPU.

The library serves from the next start on, if it passes a comparison with ctransformers' own.
"""

import argparse
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from shared.atomic_file import atomic_file
from shared.errors import EngineError, UsageError
from shared.model.library import (
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
from worker.build.compilation import compiled, compiler_options
from worker.build.self_test import self_test
from worker.build.source import unpacked_source
from worker.build.toolchain import find_toolchain

_SCRATCH = "tmp-"
_SCRATCH_BYTES = 256 << 20
"""What a build writes, cmake and ninja included, with room to spare."""
_CLEARING_S = 10.0


def main(arguments: Sequence[str], cache_dir: Path) -> int:
    """Run the command line.

    Args:
        arguments: without the program's and the command's name.
        cache_dir: where the library is put, in a folder ``engine``.

    Returns:
        The exit status: 0; 1 if the library could not be built; 2 for a mistake in the arguments.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format=f"{parser.prog}: %(message)s", force=True)
    try:
        if options.check:
            library = choose(None, cache_dir)
            print(f"{library.label}\n{library.path}".rstrip())
        else:
            with _terminated_as_interrupted():
                _build(cache_dir, options.source, options.force)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{parser.prog}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"{parser.prog}: interrupted; no library has been put into the cache", file=sys.stderr
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ggml-fastapi build-engine", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--check", action="store_true", help="only say which library the server would use"
    )
    parser.add_argument("--force", action="store_true", help="build it even if there is one")
    parser.add_argument(
        "--source", type=Path, metavar="FILE",
        help="ctransformers' source distribution, or a folder with it (default: fetched with pip)",
    )  # fmt: skip
    return parser


def _build(cache_dir: Path, given: Path | None, force: bool) -> None:
    if platform.system() != "Linux":
        raise EngineError("it works on Linux only; elsewhere ctransformers' own library serves")
    cpu, version = Cpu.here(), engine_version()
    target = library_path(cache_dir, version, cpu)
    with _only_one(target.parent):
        there = None if force else find(cache_dir, version, cpu)
        if there is not None:
            _say(f"There is a native build already (--force builds it anew):\n{there}")
            return
        with _scratch_in(target.parent) as scratch:
            library, record = _tested(scratch, cpu, version, given)
            _keep(library, record, target)
    _say(f"The server uses it from its next start on: {target}")


def _tested(scratch: Path, cpu: Cpu, version: str, given: Path | None) -> tuple[Path, Record]:
    # First, since it is what is most often missing, and known without a download.
    toolchain = find_toolchain(scratch)
    _say(f"Getting the source of ctransformers {version} ...")
    source = unpacked_source(given, version, scratch)
    options = compiler_options()
    _say(f"Compiling for {cpu.name} with {toolchain.compiler}, {options} (some 30 s) ...")
    library = compiled(source, scratch / "build", toolchain)
    reference = _reference(cpu)
    _say(f"Comparing it with {reference[1]} ...")
    models = scratch / "models"
    models.mkdir()
    test = self_test(library, reference[0], models)
    if test.prefill is not None and test.decode is not None:
        _say(
            f"{test.models} models agree to rounding; prefill is {test.prefill:.2f} times as fast,"
            f" decode {test.decode:.2f} times."
        )
    return library, Record(
        recipe=RECIPE,
        engine=version,
        cpu=cpu.name,
        cpu_digest=cpu.digest,
        compiler=toolchain.compiler,
        options=options,
        compared_with=reference[1],
        models=test.models,
        difference=test.difference,
        prefill=test.prefill,
        decode=test.decode,
        sha256=hashlib.sha256(library.read_bytes()).hexdigest(),
    )


def _reference(cpu: Cpu) -> tuple[str, str]:
    """Path and name of the library to compare with."""
    try:
        library = package_library(cpu)
    except UsageError:
        return "", "itself, as ctransformers has no library for this machine"
    return library.path, library.label


def _keep(library: Path, record: Record, target: Path) -> None:
    """Put both into the cache, in place of those of an older build; on failure that one stays.

    Raises:
        EngineError: they cannot be written.
    """
    content, described = library.read_bytes(), record.to_json()
    try:
        with (
            _not_interrupted(),
            atomic_file(record_path(target), len(described)) as (about, _),
            atomic_file(target, len(content)) as (output, _),
        ):
            # All that a full disk may refuse comes before either takes its name. The library is
            # the first to: without the record that describes it, it is not used.
            about.write(described)
            about.flush()
            os.fsync(about.fileno())
            output.write(content)
    except UsageError as error:
        raise EngineError(str(error)) from error


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
        free = shutil.disk_usage(folder).free
        if free < _SCRATCH_BYTES:
            raise EngineError(
                f"{folder}: {_SCRATCH_BYTES >> 20} MiB are needed for the build, and"
                f" {free >> 20} MiB are free there"
            )
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


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Ignore signals that would interrupt a block, which takes milliseconds."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Clean up after SIGTERM, too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
