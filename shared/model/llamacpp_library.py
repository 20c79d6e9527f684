"""Where llama.cpp's library is, and whether this machine can load it; nothing is loaded of it."""

import ctypes
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from shared.errors import UsageError
from shared.model.library import Cpu

PACKAGE = "xllamacpp"
VERSION = "2026.10.11549"
"""Of the package, that is pinned."""
# What the package's x86-64 build is compiled for; it ends with SIGILL on another CPU.
_NEEDED_FLAGS = frozenset({"avx2", "bmi2", "f16c", "fma"})
# The package does not bring it along, and small images have none.
_OPENMP = "libgomp.so.1"


@dataclass(frozen=True, slots=True)
class LlamaCppLibrary:
    """A build of the library."""

    path: str
    name: str  #: what it is, for people
    version: str  #: of the package that carries it; empty if it is not known


def find_llamacpp(llama_lib: str = "") -> LlamaCppLibrary:
    """The library that LLAMA_LIB names, ``FILE`` or ``FILE@VERSION``; else that in the package.

    Raises:
        UsageError: it is not there, or cannot be loaded on this machine.
    """
    if llama_lib:
        text, _, version = llama_lib.partition("@")
        path = Path(text).expanduser().absolute()
        if not path.is_file():
            raise UsageError(f"LLAMA_LIB={llama_lib}: there is no file {path}")
        return LlamaCppLibrary(str(path), f"LLAMA_LIB={llama_lib}", version)
    cpu = Cpu.here()
    missing = _NEEDED_FLAGS.difference(cpu.flags)
    if cpu.machine == "x86_64" and missing:
        raise UsageError(
            f"llama.cpp's library needs a CPU with {', '.join(sorted(missing))}, which"
            f" {cpu.name} has not"
        )
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UsageError(f"{PACKAGE} is not installed: pip install {PACKAGE}=={VERSION}") from None
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [path for folder in folders or () for path in Path(folder).glob(f"{PACKAGE}*.so")]
    if len(paths) != 1:
        raise UsageError(f"{PACKAGE} is installed without its library; install it anew")
    _check_openmp()
    return LlamaCppLibrary(str(paths[0]), f"the library of {PACKAGE}", version)


def _check_openmp() -> None:
    try:
        ctypes.CDLL(_OPENMP)
    except OSError:
        raise UsageError(
            "llama.cpp's library needs libgomp, which is not installed:"
            " apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora)"
        ) from None
