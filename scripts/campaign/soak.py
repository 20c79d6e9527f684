"""What memory steady traffic takes: samples, and how they grow."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from scripts.campaign.exchange import Probe
from scripts.figures import Axes, Series, draw
from scripts.processes import footprint, mib
from scripts.server import Server, zygotes

GROWTH_GOAL_PERCENT = 2.0
"""How much more memory there may be in the last sixth of the time than in the second one."""
GROWING = {
    "gateway_mib": "gateway (resident)",
    "workers_mib": "all workers (private)",
    "zygotes_mib": "zygotes (private)",
}
# From sixth to sixth, at the median: connections come and go.
_MORE = 2
# Of little a few pages are many percent: a fork leaves some that were shared to the zygote alone.
_MORE_MIB = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds at one moment."""

    at_s: float  #: since the traffic began
    gateway_mib: float  #: resident memory
    workers_mib: float  #: private memory of all workers together
    zygotes_mib: float  #: and of what they are forked from
    descriptors: int  #: of the gateway
    threads: int  #: of the gateway


async def sample(server: Server, every_s: float, samples: list[Sample]) -> None:
    """Take a sample every so many seconds until cancelled; none if that is 0."""
    started_s, probe = time.monotonic(), Probe(server.port)
    try:
        while every_s:
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


def growth_percent(samples: Sequence[Sample], name: str) -> float:
    """Mean of the last sixth against that of the second sixth; the first one is the warm-up.

    Returns:
        NaN if there are no samples to compare.
    """
    early, late = _compared(samples)
    if not early or not late:
        return math.nan
    was, now = (fmean(getattr(each, name) for each in some) for some in (early, late))
    return 100 * (now / was - 1) if was else math.nan


def grown(samples: Sequence[Sample]) -> list[str]:
    """What there is more of at the end than in the second sixth, and may not be."""
    early, late = _compared(samples)
    if not early or not late:
        return ["there are too few samples to compare"]
    found = []
    for name in ("descriptors", "threads"):
        was, now = (median(getattr(each, name) for each in some) for some in (early, late))
        if now > was + _MORE:
            found.append(f"{name}: {was:g}, and {now:g} at the end")
    for name in GROWING:
        percent = growth_percent(samples, name)
        more_mib = percent / 100 * getattr(early[-1], name)
        if percent > GROWTH_GOAL_PERCENT and more_mib > _MORE_MIB:
            found.append(f"{name}: {percent:+.2f} %")
    return found


def _compared(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    end_s = samples[-1].at_s if samples else 0.0
    early = [each for each in samples if end_s / 6 <= each.at_s < end_s / 3]
    return early, [each for each in samples if each.at_s >= end_s * 5 / 6]


def draw_memory(samples: Sequence[Sample], path: Path) -> None:
    minutes = tuple(each.at_s / 60 for each in samples)
    curves = [
        Series("soak", label, minutes, tuple(getattr(each, name) for each in samples))
        for name, label in GROWING.items()
    ]
    draw(Axes("Memory under steady traffic", "minutes", "MiB", marks=12), curves, path)
