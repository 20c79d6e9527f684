"""A build of the engine's library for the very CPU that it was made on, as it lies in the cache.

Beside the library is a record: a JSON file that is written last, and says what the library was
made from, how its self-test went, and its hash. One without the other is nothing.
"""

import hashlib
import json
import logging
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = 1
"""Counts changes to how the library is made or tested; what an older recipe made is not used."""

_VECTORS = ("avx512f", "avx2", "avx", "sse4_2", "sve", "asimd", "neon")
"""Flags of the widest vectors first; for people only."""
_MODEL_FIELDS = (
    "vendor_id", "cpu family", "model", "model name", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cpu:
    """What a native build depends on.

    Attributes:
        machine: the architecture, e.g. ``x86_64``.
        name: what the CPU calls itself.
        model: numbers of its maker for it.
        flags: the instruction sets, as the kernel names them, in order of the alphabet.
    """

    machine: str
    name: str
    model: tuple[str, ...]
    flags: tuple[str, ...]

    @classmethod
    def here(cls, root: Path = Path("/")) -> "Cpu":
        """The CPU of this machine.

        Args:
            root: where ``/proc`` is found.
        """
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
        told = repr((self.machine, self.model, self.flags))
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @property
    def vectors(self) -> str:
        """The widest vector instructions, e.g. ``avx512f``; the architecture if none is known."""
        return next((flag for flag in _VECTORS if flag in self.flags), self.machine)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a native build.

    Attributes:
        recipe: `RECIPE` at the time.
        engine: version of ctransformers whose source it was made from.
        cpu: the CPU's name.
        cpu_digest: `Cpu.digest`.
        compiler: first line of what the C++ compiler says of itself.
        options: of the compiler.
        compared_with: the library that the self-test compared it with.
        models: how many models the self-test evaluated.
        difference: the largest difference of logits from that library's, as a part of their
            standard deviation; None where there was none to compare with.
        prefill: tokens per second, divided by that library's; None as above.
        decode: the same for one token after another.
        sha256: of the library, in hexadecimal digits.
    """

    recipe: int
    engine: str
    cpu: str
    cpu_digest: str
    compiler: str
    options: str
    compared_with: str
    models: int
    difference: float | None
    prefill: float | None
    decode: float | None
    sha256: str

    def to_json(self) -> bytes:
        """Spell it as it lies beside the library."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read one back.

        Raises:
            OSError: there is none.
            ValueError: it is damaged, or of another recipe.
        """
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, dict) or set(fields) != set(cls.__slots__):
            raise ValueError("its record is none of this version")
        return cls(**fields)


def library_path(cache_dir: Path, engine: str, cpu: Cpu) -> Path:
    """Where the library for a CPU belongs.

    Args:
        cache_dir: the cache of everything that can be made again.
        engine: version of ctransformers.
        cpu: the CPU.
    """
    name = re.sub(r"[^a-z0-9]+", "-", cpu.name.lower()).strip("-")[:60]
    stem = f"ctransformers-{engine}-recipe{RECIPE}-{name}-{cpu.digest}"
    return cache_dir / "engine" / f"{stem}.so"


def record_path(library: Path) -> Path:
    """Where the record of a library is."""
    return library.with_suffix(".json")


def find(cache_dir: Path, engine: str, cpu: Cpu) -> tuple[Path, Record] | None:
    """Return the native build for a CPU, if there is a sound one; what is not sound is logged.

    Args:
        cache_dir: as for `library_path`.
        engine: version of ctransformers.
        cpu: the CPU.
    """
    library = library_path(cache_dir, engine, cpu)
    try:
        record = Record.read(record_path(library))
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
    except (OSError, ValueError, TypeError) as error:
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
    return library, record
