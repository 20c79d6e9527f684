"""Asks ``/ready`` all the time: a gateway that is alive answers soon, whatever is done to it."""

import asyncio
import time
from dataclasses import dataclass, field

from scripts.campaign.server import Probe

SLOW_S = 1.0
_EVERY_S = 0.1


@dataclass(slots=True)
class Readiness:
    """How soon it answered.

    Attributes:
        asked: how often it was asked.
        slow: how often it took longer than a second.
        slowest_s: the longest.
        failures: why there was no answer at all.
    """

    asked: int = 0
    slow: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    async def watch(self, port: int) -> None:
        """Ask until cancelled."""
        probe = Probe(port)
        try:
            while True:
                started_s = time.monotonic()
                self.asked += 1
                try:
                    await probe.get()
                except OSError as error:
                    self.failures.append(str(error))
                took_s = time.monotonic() - started_s
                self.slow += took_s > SLOW_S
                self.slowest_s = max(self.slowest_s, took_s)
                await asyncio.sleep(_EVERY_S)
        finally:
            probe.close()
