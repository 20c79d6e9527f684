"""How much one key may use: pure, the time is handed in."""

import math
from dataclasses import dataclass

MINUTE_S = 60.0


class Bucket:
    """An allowance that fills evenly, up to what a minute brings, and can be overdrawn.

    Attributes:
        limit: units per minute, and the most that can be saved up.
    """

    def __init__(self, limit: int, now_s: float) -> None:
        """A full one at ``now_s``, in seconds by any clock that does not go back."""
        self.limit = limit
        self._level = float(limit)
        self._seen_s = now_s

    def take(self, units: int, now_s: float) -> None:
        """Use up ``units``, whether they are there or not."""
        self._level = self._level_at(now_s) - units
        self._seen_s = now_s

    def remaining(self, now_s: float) -> int:
        """Whole units that are left; 0 when it is overdrawn."""
        # What was waited for must be there after the wait, whatever rounding does.
        return max(0, math.floor(self._level_at(now_s) + 1e-6))

    def wait_s(self, now_s: float) -> float:
        """Seconds until a unit is there; 0 if one is."""
        return 0.0 if self.remaining(now_s) else self._seconds_to(1, now_s)

    def reset_s(self, now_s: float) -> float:
        """Seconds until it is full."""
        return self._seconds_to(self.limit, now_s)

    def _level_at(self, now_s: float) -> float:
        gained = (now_s - self._seen_s) * self.limit / MINUTE_S
        return min(float(self.limit), self._level + gained)

    def _seconds_to(self, level: int, now_s: float) -> float:
        return max(0.0, level - self._level_at(now_s)) * MINUTE_S / self.limit


@dataclass(frozen=True, slots=True)
class Rates:
    """What each key may use; 0 is no bound.

    Attributes:
        requests: per minute.
        tokens: per minute, of prompts and completions together.
        concurrent: requests at the same time.
    """

    requests: int = 0
    tokens: int = 0
    concurrent: int = 0

    def __bool__(self) -> bool:
        """Whether there is any bound."""
        return bool(self.requests or self.tokens or self.concurrent)


NO_BOUNDS = Rates()
"""Without any bound."""


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Why a request is not taken now.

    Attributes:
        message: for the client.
        wait_s: seconds until it would be taken; None if that depends on other requests.
    """

    message: str
    wait_s: float | None


class Usage:
    """What one key uses.

    Attributes:
        running: its requests at this time.
    """

    def __init__(self, rates: Rates, now_s: float) -> None:
        """Nothing is used yet."""
        self.running = 0
        self._rates = rates
        self._requests = Bucket(rates.requests, now_s) if rates.requests else None
        self._tokens = Bucket(rates.tokens, now_s) if rates.tokens else None

    def begin(self, now_s: float) -> OverLimit | None:
        """Take a request and return None, or say why not."""
        rates = self._rates
        if rates.concurrent and self.running >= rates.concurrent:
            return OverLimit(f"{rates.concurrent} requests at the same time for each key", None)
        if self._requests and (wait_s := self._requests.wait_s(now_s)):
            return OverLimit(f"{rates.requests} requests per minute for each key", wait_s)
        # How many tokens a request takes is known when it has ended: it may overdraw, and the next
        # one waits.
        if self._tokens and (wait_s := self._tokens.wait_s(now_s)):
            return OverLimit(f"{rates.tokens} tokens per minute for each key", wait_s)
        if self._requests:
            self._requests.take(1, now_s)
        self.running += 1
        return None

    def end(self) -> None:
        """A request that was taken has ended."""
        self.running -= 1

    def charge(self, tokens: int, now_s: float) -> None:
        """Tokens were used."""
        if self._tokens:
            self._tokens.take(tokens, now_s)

    def headers(self, now_s: float) -> dict[str, str]:
        """The ``x-ratelimit-`` headers, of those limits that there are."""
        found = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket:
                found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now_s))
                found[f"x-ratelimit-reset-{kind}"] = duration(bucket.reset_s(now_s))
        return found


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it, rounded up: ``120ms``, ``1s``, ``6m0s``, ``1h0m0s``."""
    if seconds <= 0:
        return "0s"
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(seconds - 1e-6), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
