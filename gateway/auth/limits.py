"""What each API key may use: requests and tokens per minute, requests at the same time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.observe.record import record_of
from shared.errors import ErrorCode

FREE_PATHS = (
    "/tokenize", "/detokenize", "/apply-template", "/v1/chat/completions/input_tokens",
)  # fmt: skip
"""What takes POST and evaluates no prompt, besides ``/admin/``; all else that takes POST counts."""

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What each key may use; 0 is no bound."""

    requests: int = 0  # per minute
    tokens: int = 0  # per minute, of prompts and completions together
    concurrent: int = 0  # requests at the same time

    def __bool__(self) -> bool:
        return bool(self.requests or self.tokens or self.concurrent)


class Bucket:
    """An allowance that fills evenly, up to what a minute brings, and can be overdrawn.

    Times are seconds by any clock that does not go back.
    """

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit  # units per minute, and the most that can be saved up
        self._level = float(limit)
        self._seen_s = now_s

    def take(self, units: int, now_s: float) -> None:
        """Use ``units``, whether they are there or not."""
        self._level, self._seen_s = self._level_at(now_s) - units, now_s

    def remaining(self, now_s: float) -> int:
        """Whole units that are left; 0 when it is overdrawn."""
        # What was waited for must be there after the wait, whatever rounding does.
        return max(0, math.floor(self._level_at(now_s) + 1e-6))

    def seconds_to(self, level: int, now_s: float) -> float:
        """Seconds until so many units are there; 0 if they are."""
        if self.remaining(now_s) >= level:
            return 0.0
        return (level - self._level_at(now_s)) * _MINUTE_S / self.limit

    def _level_at(self, now_s: float) -> float:
        gained = (now_s - self._seen_s) * self.limit / _MINUTE_S
        return min(float(self.limit), self._level + gained)


class Usage:
    """What one key uses; ``running`` counts its requests at this time."""

    def __init__(self, rates: Rates, now_s: float) -> None:
        self.running = 0
        self._rates = rates
        limits = {"requests": rates.requests, "tokens": rates.tokens}
        self._buckets = {kind: Bucket(limit, now_s) for kind, limit in limits.items() if limit}

    def begin(self, now_s: float) -> None:
        """Count a request that begins.

        Raises:
            ApiError: ``rate_limit_exceeded``; the request counts for nothing.
        """
        if self._rates.concurrent and self.running >= self._rates.concurrent:
            raise self._refusal(f"{self._rates.concurrent} requests at the same time", None, now_s)
        # How many tokens a request takes is known when it has ended: it may overdraw, and the next
        # one waits.
        for kind, bucket in self._buckets.items():
            if wait_s := bucket.seconds_to(1, now_s):
                raise self._refusal(f"{bucket.limit} {kind} per minute", wait_s, now_s)
        if "requests" in self._buckets:
            self._buckets["requests"].take(1, now_s)
        self.running += 1

    def charge(self, tokens: int, now_s: float) -> None:
        """Count tokens that were used."""
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(tokens, now_s)

    def headers(self, now_s: float) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-`` headers, of those limits that there are."""
        found = {}
        for kind, bucket in self._buckets.items():
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now_s))
            found[f"x-ratelimit-reset-{kind}"] = duration(bucket.seconds_to(bucket.limit, now_s))
        return found

    def _refusal(self, limit: str, wait_s: float | None, now_s: float) -> ApiError:
        return ApiError(
            ErrorCode.RATE_LIMIT_EXCEEDED,
            f"The limit is {limit} for each key.",
            retry_after=None if wait_s is None else max(1, math.ceil(wait_s)),
            headers=self.headers(now_s),
        )


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it, rounded up: ``120ms``, ``1s``, ``6m0s``, ``1h0m0s``."""
    milliseconds = max(0, math.ceil(seconds * 1000 - 1e-6))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(seconds - 1e-6), 60) if milliseconds else (0, 0)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class KeyLimits:
    """Middleware that refuses what is beyond the limits of a key; answers say how much is left."""

    def __init__(
        self, app: ASGIApp, rates: Rates, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._rates = rates
        self._clock = clock  # seconds
        self._usages: dict[str, Usage] = {}  # by the names of keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = record_of(scope).key_name if scope["type"] == "http" else None
        path = scope.get("path", "")
        is_free = path in FREE_PATHS or path.startswith("/admin/")
        if name is None or is_free or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        usage = self._usages.get(name) or Usage(self._rates, self._clock())
        self._usages[name] = usage
        usage.begin(self._clock())
        try:
            await self._run(usage, scope, receive, send)
        finally:
            usage.running -= 1

    async def _run(self, usage: Usage, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        charged = 0

        def charge() -> None:
            nonlocal charged
            used = record.prompt_tokens + record.completion_tokens
            usage.charge(used - charged, self._clock())
            charged = used

        async def charging_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                charge()  # of a whole answer all is known by now, of a stream the prompt
                MutableHeaders(scope=message).update(usage.headers(self._clock()))
            await send(message)

        try:
            await self._app(scope, receive, charging_send)
        finally:
            charge()
