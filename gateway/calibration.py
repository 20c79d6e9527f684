"""What a model does on this machine: measured once by a process that may die, kept in the cache."""

import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from gateway import machine
from shared.atomic_file import atomic_file
from shared.config import WorkerConfig, python_path
from shared.errors import EngineError, UsageError
from shared.exit_status import ended
from shared.model.library import Cpu

_CODE = "from worker.calibration import main; main()"
# A thread pool of NumPy's does not survive a fork; a failed assertion of ggml's may start a
# debugger.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
#: What the measurement of layouts may take besides the time to load the model.
_LAYOUT_S = 4.0
_LAYOUT_N_CTX, _EXACTNESS_N_CTX, _MOST_ROWS = 1024, 384, 63
# By so much more another layout has to yield than the usual one, which neighbours disturb least.
_CLEARLY = 1.05
# Starts that try to measure where it fails, as on a machine whose cores other programs use.
_MOST_TRIES = 3
# The lowest priority, beside the server's work.
_NICE = 19
#: Parts of a `WorkerConfig` that change neither speed nor logits.
_IRRELEVANT = (
    "n_ctx", "threads", "log_level", "log_format", "model_id", "file_name", "chat_template",
    "slots", "exact_rows", "prefix_cache", "name",
)  # fmt: skip

Rates: TypeAlias = Mapping[str, Mapping[str, float]]
"""Tokens/s by the number of sequences and of workers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exactness:
    """Within which bounds logits do not depend, to the bit, on what else is evaluated."""

    #: rows that are evaluated together, of a prompt or of several sequences
    rows: int
    #: 1: several threads yield other logits than one
    threads: int


class Calibration:
    """What is known of a model with one configuration of workers."""

    def __init__(
        self,
        config: WorkerConfig,
        cores: int,
        cache_dir: Path,
        *,
        weight_bytes: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Read what the cache has; rubbish there is as good as nothing."""
        self._weight_bytes = weight_bytes
        self._timeout_s = timeout_s
        self._config = config
        self._cores = cores
        self._key = _key(config, cores)
        digest = sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self._path = cache_dir / "calibration" / f"{digest[:16]}.json"
        self._known = self._read()

    @property
    def exactness(self) -> Exactness | None:
        """As far as it is known by now."""
        rows, threads = self._known.get("exact_rows"), self._known.get("exact_threads")
        if not (isinstance(rows, int) and isinstance(threads, int) and rows > 0 < threads):
            return None
        return Exactness(rows, threads)

    def workers(self, possible: Sequence[int]) -> int | None:
        """Which number of workers is fastest; None if there is no choice, or nothing is known."""
        if len(possible) == 1:
            return None
        rates, tries = self._known.get("rates"), self._known.get("tries", 0)
        if rates != {} and tries != _MOST_TRIES and not _is_complete(rates, possible):
            rates = self._measure_rates(possible)
        return fastest(rates, possible) if _is_complete(rates, possible) else None

    def _measure_rates(self, possible: Sequence[int]) -> Any:
        logger.info("measuring once with how many workers this model is fastest (some seconds)")
        n_ctx = min(_LAYOUT_N_CTX, self._config.n_ctx or _LAYOUT_N_CTX)
        config = replace(self._config, n_ctx=n_ctx)
        found = self._measure(config, {"workers": possible, "seconds": _LAYOUT_S})
        if found is not None and found.get("disturbed"):
            logger.warning("other programs use the cores, so nothing was measured")
            found = None
        if found is None:
            self._keep({"tries": self._known.get("tries", 0) + 1})
            return None
        # Without any figure, if it is too slow for the time: that is known then, too.
        self._keep({"rates": found.get("rates")})
        return found.get("rates")

    def measure_exactness(self, nice: int = 0) -> Exactness | None:
        """Measure it unless it is known; returns what is known then."""
        if self.exactness is None:
            n_ctx = min(_EXACTNESS_N_CTX, self._config.n_ctx or _EXACTNESS_N_CTX)
            config = replace(self._config, n_ctx=n_ctx, exact_rows=_MOST_ROWS)
            found = self._measure(config, {"seconds": 0, "nice": nice})
            if found is not None:
                self._keep(found)
        return self.exactness

    def measure_beside(self) -> None:
        """Measure exactness beside the server's work, if there is memory for the model again."""
        free = machine.available_memory()
        if self.exactness is not None or (free is not None and free < 2 * self._weight_bytes):
            return
        threading.Thread(
            target=self.measure_exactness, args=(_NICE,), name="exactness", daemon=True
        ).start()

    def _measure(self, config: WorkerConfig, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the process finds; None, and a line in the log, if it finds nothing."""
        alive, ours = os.pipe()
        try:
            argument = {
                "config": asdict(config), "cores": self._cores, "gateway": alive, "nice": 0,
                **wanted,
            }  # fmt: skip
            path = python_path(os.environ.get("PYTHONPATH"))
            done = subprocess.run(
                [sys.executable, "-c", _CODE, json.dumps(argument)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=(alive,),
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                timeout=self._timeout_s,
                start_new_session=True,  # a terminal's Ctrl-C is the gateway's
            )
            if done.returncode:
                last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise EngineError(f"{ended(done.returncode)}: {last[:200]}")
            found = json.loads(done.stdout)
            return found if isinstance(found, dict) else None
        except (OSError, ValueError, EngineError, subprocess.TimeoutExpired) as error:
            logger.warning("the model could not be measured: %s", error)
            return None
        finally:
            os.close(alive)
            os.close(ours)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_bytes())
            is_ours = isinstance(found, dict) and found.get("key") == self._key
            if is_ours and isinstance(found.get("tries", 0), int):
                return dict(found)
        return {}

    def _keep(self, found: Mapping[str, Any]) -> None:
        self._known = {**self._known, **found, "key": self._key}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(self._known, indent=1).encode()
            with atomic_file(self._path, len(content)) as (file, _):
                file.write(content)
        except (OSError, UsageError) as error:
            logger.warning("what was measured of the model cannot be kept: %s", error)


def layouts(most: int, cores: int) -> list[int]:
    """How many workers may share the cores: powers of 2, and the most that there can be."""
    return [n for n in (1, 2, 4, 8, 16, 32) if n < most and cores % n == 0] + [most]


def fastest(rates: Rates, possible: Sequence[int]) -> int:
    """How many workers yield most tokens/s, by the geometric mean over numbers of sequences.

    The last of ``possible`` is the usual number; another one has to be clearly faster.
    """

    def mean(workers: int) -> float:
        each = [rate[str(workers)] for rate in rates.values()]
        return math.exp(sum(map(math.log, each)) / len(each))

    best = max(possible, key=mean)
    return best if mean(best) >= _CLEARLY * mean(possible[-1]) else possible[-1]


def _is_complete(rates: Any, possible: Sequence[int]) -> TypeGuard[Rates]:
    """Whether there is a figure of each layout for some number of sequences."""
    return (
        isinstance(rates, dict)
        and bool(rates)
        and all(
            isinstance(rate, dict)
            and all(
                isinstance(rate.get(str(workers)), int | float) and rate[str(workers)] > 0
                for workers in possible
            )
            for rate in rates.values()
        )
    )


def _key(config: WorkerConfig, cores: int) -> dict[str, Any]:
    """What the figures depend on."""
    file = os.stat(config.model_path)
    settings = {k: v for k, v in asdict(config).items() if k not in _IRRELEVANT}
    key = {
        **settings,
        "bytes": file.st_size,
        "modified_ns": file.st_mtime_ns,
        "llama_cpp": metadata.version("xllamacpp"),
        "cpu": Cpu.here().digest,
        "cores": cores,
    }
    return dict(json.loads(json.dumps(key)))  # as it is read again: tuples are lists there
