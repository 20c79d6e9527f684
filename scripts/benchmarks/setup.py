"""What all parts of the benchmarks are given."""

import platform
from dataclasses import dataclass
from pathlib import Path

from gateway import machine
from scripts.bench_sides import N_CTX

QUICK_ROUNDS = 1


@dataclass(frozen=True, slots=True)
class Setup:
    """One run of the benchmarks.

    Attributes:
        model: the model file.
        rounds: how often each pair of measurements is made, besides one to warm up.
        quick: shorter texts and fewer points, to try the benchmarks themselves.
    """

    model: Path
    rounds: int
    quick: bool = False

    def choose(self, full: int, quick: int) -> int:
        """A size that depends on the mode."""
        return quick if self.quick else full


def describe_machine(model: str) -> str:
    """The machine and the versions that matter, in a line."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return (
        f"{cpu}, {machine.usable_cores()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, {model}, context {N_CTX}"
    )
