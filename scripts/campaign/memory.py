"""What the server holds while it runs: samples, and how they grow."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.campaign.exchange import Probe
from scripts.figures import Axes, Series, draw
from scripts.processes import footprint, mib
from scripts.server import Server, zygotes

GROWING = {
    "gateway_mib": "gateway (resident)",
    "workers_mib": "all workers (private)",
    "zygotes_mib": "zygotes (private)",
}
LEAST_MINUTES = 5.0
"""A shorter run is its own warm-up: some 18 bursts make the gateway grow to a level."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds at one moment."""

    at_s: float  #: since the traffic began
    gateway_mib: float  #: resident memory
    workers_mib: float  #: private memory of all workers together
    zygotes_mib: float  #: and of what they are forked from
    descriptors: int  #: of the gateway
    threads: int  #: of the gateway


_MORE_DESCRIPTORS = 2  # connections come and go
_MORE_THREADS = 8  # a pool of threads never shrinks
_MORE_PERCENT = 2.0
_MORE_MIB = 1.0  # of little, a few pages are many percent
# Where there are bursts and deaths, arenas of glibc hold back what differs from run to run.
_MORE_MIB_UNDER_HARM = 10.0


async def sample(server: Server, every_s: float, samples: list[Sample]) -> None:
    """Take a sample every so many seconds until cancelled."""
    started_s, probe = time.monotonic(), Probe(server.port)
    try:
        while True:
            with suppress(OSError):
                status = await probe.get()
                workers = [w["pid"] for w in status["workers"] if w["pid"]]
                held = footprint(server.pid)
                samples.append(
                    Sample(
                        at_s=time.monotonic() - started_s,
                        gateway_mib=held.rss_mib,
                        workers_mib=sum(mib(pid, "Private_") for pid in workers),
                        zygotes_mib=sum(mib(pid, "Private_") for pid in zygotes(status)),
                        descriptors=held.descriptors,
                        threads=held.threads,
                    )
                )
            await asyncio.sleep(every_s)
    finally:
        probe.close()


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """Medians of the second sixth (the first is the warm-up) and of the last; NaN of none."""
    end_s = samples[-1].at_s if samples else 0.0
    early = [getattr(each, name) for each in samples if end_s / 6 <= each.at_s < end_s / 3]
    late = [getattr(each, name) for each in samples if each.at_s >= end_s * 5 / 6]
    return median(early or [math.nan]), median(late or [math.nan])


def grown(samples: Sequence[Sample], is_steady: bool) -> list[str]:
    """What there is more of at the end than in the second sixth, and may not be."""
    bounds: dict[str, tuple[float, float]] = {
        "descriptors": (_MORE_DESCRIPTORS, 0.0),
        "threads": (_MORE_THREADS, 0.0),
    }
    if is_steady:
        bounds |= {name: (_MORE_MIB, _MORE_PERCENT) for name in GROWING}
    else:
        # What is killed and forked again has no level of its own.
        bounds["gateway_mib"] = (_MORE_MIB_UNDER_HARM, _MORE_PERCENT)
    found = []
    for name, (more, percent) in bounds.items():
        was, now = growth(samples, name)
        if not now <= was + max(more, was * percent / 100):
            found.append(f"{name}: {was:.1f}, and {now:.1f} at the end")
    return found


def draw_memory(samples: Sequence[Sample], path: Path) -> None:
    minutes = tuple(each.at_s / 60 for each in samples)
    curves = [
        Series("soak", label, minutes, tuple(getattr(each, name) for each in samples))
        for name, label in GROWING.items()
    ]
    draw(Axes("Memory under steady traffic", "minutes", "MiB", marks=12), curves, path)
