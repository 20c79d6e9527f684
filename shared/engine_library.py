"""Which build of ctransformers' C library serves: a native one, one of the package's, or one named.

Decided before anything is loaded, so without the library or the package itself.
"""

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from shared.errors import UsageError
from shared.exit_status import ended
from shared.native_build import Cpu, find

_NEEDED_FLAGS = {"avx2": {"avx2", "fma", "f16c"}, "avx": {"avx", "f16c"}, "basic": set[str]()}
"""The variants in ctransformers' wheels, the fastest first, and what each wants of an x86 CPU."""
_LOCAL = "local"
"""What ctransformers calls the variant that its own installation from source has built."""
_FILE_NAME = "libctransformers.so"
_FUNCTIONS = (
    "ctransformers_llm_create", "ctransformers_llm_delete", "ctransformers_llm_batch_eval",
    "ctransformers_llm_logits_data", "ctransformers_llm_tokenize", "ctransformers_llm_vocab_size",
    "ctransformers_llm_context_length",
)  # fmt: skip
_PROBE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in sys.argv[2:]:
    getattr(library, name)
print("loaded")
"""
_PROBE_S = 60.0


@dataclass(frozen=True, slots=True)
class EngineLibrary:
    """A build of the library.

    Attributes:
        path: the file; empty leaves the choice to ctransformers, where its wheels are not known.
        label: what it is, for people.
    """

    path: str
    label: str


def choose(ct_lib: str | None, cache_dir: Path) -> EngineLibrary:
    """Choose the library that serves: the one asked for, else a native build, else the package's.

    Args:
        ct_lib: a library file, or a variant of ctransformers' wheels; None chooses.
        cache_dir: where a native build may be.

    Raises:
        UsageError: there is none, or what was asked for is none that this machine can load.
    """
    cpu, version = Cpu.here(), engine_version()
    if ct_lib is not None:
        return _named(ct_lib, cpu, version)
    native = find(cache_dir, version, cpu)
    if native is not None:
        label = f"native build of ctransformers {version}, {cpu.vectors}"
        return EngineLibrary(str(native[0]), label)
    return package_library(cpu)


def engine_version() -> str:
    """The version of ctransformers that is installed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return metadata.version("ctransformers")
    except metadata.PackageNotFoundError:
        raise UsageError("ctransformers is not installed: pip install ctransformers") from None


def package_library(cpu: Cpu) -> EngineLibrary:
    """The library in the ctransformers package that suits a CPU best.

    Raises:
        UsageError: it has none for this machine.
    """
    version, variant = engine_version(), library_variant(cpu)
    if variant is not None:
        return EngineLibrary(str(_variant_path(variant)), f"ctransformers {version}, {variant}")
    if platform.system() == "Linux":
        raise UsageError(
            f"ctransformers {version} has no library for Linux on {cpu.machine}: build one for"
            " this machine with `ggml-fastapi build-engine`"
        )
    return EngineLibrary("", f"ctransformers {version}")


def library_variant(cpu: Cpu | None = None) -> str | None:
    """The variant in the package that a CPU can run; None if its wheels have none.

    ctransformers finds out by itself, but takes over a second for it.

    Args:
        cpu: None takes the one of this machine.
    """
    if platform.system() != "Linux":
        return None
    cpu = cpu or Cpu.here()
    if _variant_path(_LOCAL).is_file():
        return _LOCAL
    if cpu.machine != "x86_64":
        return None
    return next(name for name, needed in _NEEDED_FLAGS.items() if needed <= set(cpu.flags))


def _variant_path(variant: str) -> Path:
    spec = find_spec("ctransformers")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("ctransformers is not installed: pip install ctransformers")
    return Path(spec.submodule_search_locations[0], "lib", variant, _FILE_NAME)


def _named(ct_lib: str, cpu: Cpu, version: str) -> EngineLibrary:
    variants = ", ".join(_NEEDED_FLAGS)
    if ct_lib in _NEEDED_FLAGS:
        path, label = _variant_path(ct_lib), f"ctransformers {version}, {ct_lib}"
        missing = _NEEDED_FLAGS[ct_lib] - set(cpu.flags)
        if missing and cpu.machine == "x86_64":
            raise UsageError(
                f"CT_LIB={ct_lib}: this CPU has not {', '.join(sorted(missing))};"
                f" the variants are {variants}"
            )
    else:
        path = Path(ct_lib).expanduser().absolute()
        label = str(path)
    if not path.is_file():
        raise UsageError(
            f"CT_LIB={ct_lib}: there is no file {path}; name a build of ctransformers' library, or"
            f" a variant: {variants}"
        )
    problem = _problem_with(path)
    if problem:
        raise UsageError(f"CT_LIB={ct_lib}: not a library of ctransformers {version}: {problem}")
    return EngineLibrary(str(path), label)


def _problem_with(path: Path) -> str:
    """Why a file cannot be loaded as the library; empty if it can.

    In a process of its own: what is loaded stays loaded, and may run code.
    """
    command = [sys.executable, "-I", "-c", _PROBE, str(path), *_FUNCTIONS]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
        )
    except subprocess.TimeoutExpired:
        return f"loading it takes longer than {_PROBE_S:.0f} s"
    if done.returncode == 0 and done.stdout.endswith("loaded\n"):
        return ""
    # The last line of a traceback; what the library does to the process may come without a word.
    reason = done.stderr.strip().rpartition("\n")[2].partition(": ")[2]
    if done.returncode > 0 and reason:
        return reason
    return f"loading it ends the process ({ended(done.returncode)})"
