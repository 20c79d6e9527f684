"""When the requests of an open loop arrive, whatever the server does."""

import random
from collections.abc import Iterator


def intervals(rate: float, burstiness: float, seed: int, user: int) -> Iterator[float]:
    """Seconds from one arrival to the next, without end.

    They are drawn from a gamma distribution, as other benchmarks of such servers do.

    Args:
        rate: arrivals in a second, on average.
        burstiness: the distribution's shape. 1 makes a Poisson process; less comes in bursts; more
            is more even.
        seed: the same seed gives the same user the same arrivals.
        user: number of the user; each has arrivals of its own.

    Raises:
        ValueError: rate or burstiness is not above 0.
    """
    if rate <= 0 or burstiness <= 0:
        raise ValueError(f"rate and burstiness must be above 0, not {rate} and {burstiness}")
    return _drawn(rate, burstiness, random.Random(f"{seed} {user}"))


def _drawn(rate: float, burstiness: float, source: random.Random) -> Iterator[float]:
    while True:
        yield source.gammavariate(burstiness, 1 / (rate * burstiness))
