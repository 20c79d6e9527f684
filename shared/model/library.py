"""Which build of ctransformers' C library serves: a native one, one of the package's, or one named.

Decided before anything is loaded, so without the library or the package itself. A native build lies
in the cache beside its record: a JSON file that is written last, and says what the library was made
from, how its self-test went, and its hash. One without the other is nothing.
"""

import hashlib
import json
import logging
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from shared.errors import UsageError
from shared.exit_status import ended

RECIPE = 2
"""Counts changes to how the library is made or tested; what an older recipe made is not used."""
_MODEL_FIELDS = (
    "vendor_id", "cpu family", "model", "model name", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip
_NEEDED_FLAGS = {"avx2": {"avx2", "fma", "f16c"}, "avx": {"avx", "f16c"}, "basic": set[str]()}
"""The variants in ctransformers' wheels, the fastest first, and what each wants of an x86 CPU."""
LOCAL = "local"
"""What ctransformers calls the variant that its own installation from source has built."""
FILE_NAME = "libctransformers.so"
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
_NOT_INSTALLED = "ctransformers is not installed: pip install ctransformers"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cpu:
    """What a native build depends on."""

    machine: str  #: the architecture, e.g. ``x86_64``
    name: str  #: what the CPU calls itself
    model: tuple[str, ...]  #: numbers of its maker for it
    flags: tuple[str, ...]  #: instruction sets as the kernel names them, sorted

    @classmethod
    def here(cls, root: Path = Path("/")) -> "Cpu":
        """The CPU of this machine; ``/proc`` is looked for in ``root``."""
        machine = platform.machine()
        try:
            text = (root / "proc/cpuinfo").read_text()
        except OSError:
            text = ""
        fields: dict[str, str] = {}
        # The first of several processors stands for all, as it does for the compiler.
        for line in text.partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
        flags = fields.get("flags") or fields.get("Features") or ""
        model = tuple(fields.get(name, "") for name in _MODEL_FIELDS)
        name = fields.get("model name") or f"{machine} CPU {fields.get('CPU part', '')}".strip()
        return cls(machine, name, model, tuple(sorted(set(flags.split()))))

    @property
    def digest(self) -> str:
        """Tells CPUs apart for which a compiler may choose other instructions; 12 digits."""
        identity = repr((self.machine, self.model, self.flags))
        return hashlib.sha256(identity.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a native build."""

    recipe: int  #: `RECIPE` at the time
    engine: str  #: version of ctransformers
    cpu: str
    cpu_digest: str
    compiler: str  #: first line of what it says of itself
    options: str  #: of the compiler
    compared_with: str  #: the library that the self-test compared it with
    #: the largest difference of logits from that library's, as a part of their standard deviation
    difference: float | None
    sha256: str  #: of the library

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def library_path(cache_dir: Path, engine: str, cpu: Cpu) -> Path:
    """Where the library for a CPU and a version of ctransformers belongs."""
    name = re.sub(r"[^a-z0-9]+", "-", cpu.name.lower()).strip("-")[:60]
    stem = f"ctransformers-{engine}-recipe{RECIPE}-{name}-{cpu.digest}"
    return cache_dir / "engine" / f"{stem}.so"


def record_path(library: Path) -> Path:
    return library.with_suffix(".json")


def find(cache_dir: Path, engine: str, cpu: Cpu) -> Path | None:
    """The native build for a CPU, if there is a sound one; what is not sound is logged."""
    library = library_path(cache_dir, engine, cpu)
    try:
        fields = json.loads(record_path(library).read_bytes())
        if not isinstance(fields, dict) or set(fields) != set(Record.__slots__):
            raise ValueError("its record is none of this version")
        record = Record(**fields)
        found = hashlib.sha256(library.read_bytes()).hexdigest()
    except FileNotFoundError:
        others = list(library.parent.glob("*.json"))
        if others:
            logger.warning(
                "the native build %s is for another CPU, another version of ctransformers or "
                "another recipe, and is not used; run `ggml-fastapi build-engine` again",
                others[0].with_suffix(".so"),
            )
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s: %s; it is not used", library, error)
        return None
    wanted = (RECIPE, engine, cpu.digest, found)
    if (record.recipe, record.engine, record.cpu_digest, record.sha256) != wanted:
        logger.warning(
            "%s does not match its record (another CPU, version or content) and is not used; run"
            " `ggml-fastapi build-engine --force`",
            library,
        )
        return None
    return library


@dataclass(frozen=True, slots=True)
class EngineLibrary:
    """A build of the library."""

    path: str
    label: str  #: what it is, for people


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
        return EngineLibrary(str(native), f"native build of ctransformers {version}, {cpu.name}")
    return package_library(cpu)


def engine_version() -> str:
    """The version of ctransformers that is installed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return metadata.version("ctransformers")
    except metadata.PackageNotFoundError:
        raise UsageError(_NOT_INSTALLED) from None


def package_library(cpu: Cpu) -> EngineLibrary:
    """The library in the ctransformers package that suits a CPU best.

    Raises:
        UsageError: it has none for this machine.
    """
    version, variant = engine_version(), library_variant(cpu)
    if variant is None:
        raise UsageError(
            f"ctransformers {version} has no library for Linux on {cpu.machine}: build one for"
            " this machine with `ggml-fastapi build-engine`"
        )
    return EngineLibrary(str(_variant_path(variant)), f"ctransformers {version}, {variant}")


def library_variant(cpu: Cpu | None = None) -> str | None:
    """The variant in the package that a CPU can run; None if its wheels have none.

    ctransformers finds out by itself, but takes over a second for it.

    Args:
        cpu: None takes the one of this machine.
    """
    cpu = cpu or Cpu.here()
    if _variant_path(LOCAL).is_file():
        return LOCAL
    if cpu.machine != "x86_64":
        return None
    return next(name for name, needed in _NEEDED_FLAGS.items() if needed <= set(cpu.flags))


def _variant_path(variant: str) -> Path:
    spec = find_spec("ctransformers")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(_NOT_INSTALLED)
    return Path(spec.submodule_search_locations[0], "lib", variant, FILE_NAME)


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
