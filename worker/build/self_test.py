"""Compares a new build of the library with the package's own, before it is ever used."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.exit_status import ended
from worker.build.evaluation import SPEED_KEY, UNEQUAL_KEY
from worker.build.sample_models import SAMPLES, SPEED, Sample

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_S = 600.0
_MOST_RMS = {True: 0.002, False: 0.06}
"""Root mean square of the differences of logits, as a part of their standard deviation, where the
weights are floats, and where they are integers: activations are 8-bit integers then, and rounding
moves some to a neighbour. ctransformers' own variants are 0.0005 and 0.022 apart; a mistake makes
1."""
_TIE = 0.2
"""Of the same: greedy tokens may differ where the best two are closer than that."""

Results = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What came out of a test that was passed.

    Attributes:
        models: how many were evaluated.
        difference: the largest root mean square of a model's differences from the reference, as a
            part of the logits' standard deviation; None without a reference.
        prefill: tokens per second divided by the reference's; None without one.
        decode: the same for one token after another.
    """

    models: int
    difference: float | None
    prefill: float | None
    decode: float | None


def self_test(library: Path, reference: str, scratch: Path) -> SelfTest:
    """Evaluate small models of every kind with both libraries, each in a process of its own.

    The new one must give the same logits to the bit wherever a prompt is cut into chunks; and the
    reference's logits to rounding, and its greedy tokens.

    Args:
        library: the new one.
        reference: the package's own, or empty if it has none for this machine.
        scratch: a folder for the models.

    Raises:
        EngineError: it failed.
        OSError: the models cannot be written.
    """
    for sample in (*SAMPLES, SPEED):
        sample.write(scratch)
    found = _evaluate(str(library), scratch)
    unequal = found.pop(UNEQUAL_KEY)
    if len(unequal):
        raise EngineError(
            f"the self-test failed: {unequal[0]} gives other logits when its prompt is evaluated in"
            " other chunks; another compiler, named with CC and CXX, may do better"
        )
    speed = found.pop(SPEED_KEY)
    for name, logits in found.items():
        if not np.isfinite(logits).all():
            raise EngineError(f"the self-test failed: logits of {name} are not finite")
    if not reference:
        return SelfTest(len(found), None, None, None)
    wanted = _evaluate(reference, scratch)
    worst = max(_difference(sample, found[sample.name], wanted[sample.name]) for sample in SAMPLES)
    prefill, decode = (speed / wanted[SPEED_KEY]).tolist()
    return SelfTest(len(found), worst, prefill, decode)


def _evaluate(library: str, scratch: Path) -> Results:
    target = scratch / "logits.npz"
    # From our own sources, wherever they were imported from.
    command = [sys.executable, "-m", "worker.build.evaluation", library, str(scratch), str(target)]
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"the self-test of {library} took over {_LONGEST_S:.0f} s") from None
    if done.returncode:
        model = done.stdout.strip().rpartition("\n")[2] or "starting"
        reason = done.stderr.strip().rpartition("\n")[2]
        raise EngineError(
            f"the self-test of {library} failed at {model} ({ended(done.returncode)}) {reason}"
        )
    with np.load(target) as archive:
        return dict(archive)


def _difference(sample: Sample, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    deviation = float(wanted.std())
    difference = float(np.sqrt(np.square(found - wanted).mean())) / deviation
    most = _MOST_RMS[sample.has_floats]
    if difference > most:
        raise EngineError(
            f"the self-test failed: logits of {sample.name} differ by {difference:.3f} of their"
            f" standard deviation from ctransformers' own library; at most {most} is rounding"
        )
    best = wanted.argmax(axis=1)
    rows = np.arange(len(wanted))
    behind = wanted[rows, best] - wanted[rows, found.argmax(axis=1)]
    if behind.max() > _TIE * deviation:
        raise EngineError(f"the self-test failed: {sample.name} gives other greedy tokens")
    return difference
