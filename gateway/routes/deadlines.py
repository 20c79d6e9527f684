"""How long a request may take: what the settings allow, and less if its headers say so."""

import asyncio
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from gateway.errors import ApiError
from gateway.observe.record import record_of
from gateway.serving import ServingConfig
from shared.errors import ErrorCode

_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """The bounds of one request.

    Attributes:
        request_timeout_s: seconds that it may take in all; None for no bound.
        deadline_s: when these are over, by `time.monotonic`; None for never.
        queue_timeout_s: seconds that each of its generations may wait; None for no bound.
    """

    request_timeout_s: float | None = None
    deadline_s: float | None = None
    queue_timeout_s: float | None = None

    @contextmanager
    def within(self) -> Iterator[None]:
        """End the block at the deadline, wherever it waits.

        Raises:
            ApiError: `REQUEST_TIMEOUT`, the deadline came first.
        """
        if self.deadline_s is None:
            yield
            return
        task, is_over = asyncio.current_task(), False
        assert task is not None, "requests are answered in tasks"

        def end() -> None:
            nonlocal is_over
            is_over = True
            task.cancel()

        left_s = max(0.0, self.deadline_s - time.monotonic())
        timer = asyncio.get_running_loop().call_later(left_s, end)
        try:
            yield
        except asyncio.CancelledError:
            if not is_over:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            message = f"The request took longer than {self.request_timeout_s:g} seconds."
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, message) from None
        finally:
            timer.cancel()


def time_bounds(request: Request, config: ServingConfig) -> TimeBounds:
    """The bounds of a request: those of the settings, or lower ones that its headers ask for.

    Raises:
        ApiError: `INVALID_VALUE`, a header holds something else than seconds.
    """
    in_all_s = _lower(request, "x-request-timeout", config.request_timeout_s)
    waiting_s = _lower(request, "x-queue-timeout", config.queue_timeout_s)
    deadline_s = None if in_all_s is None else record_of(request.scope).began_s + in_all_s
    return TimeBounds(in_all_s, deadline_s, waiting_s)


def _lower(request: Request, header: str, most_s: float) -> float | None:
    """The lower of a setting, where 0 is no bound, and a header; None for no bound."""
    bound_s = most_s or math.inf
    given = request.headers.get(header)
    if given is not None:
        seconds = float(given) if _SECONDS.fullmatch(given) else 0.0
        if seconds <= 0.0:
            message = f"The header {header} must be a number of seconds above 0, such as 2.5."
            raise ApiError(ErrorCode.INVALID_VALUE, message, header)
        bound_s = min(bound_s, seconds)
    return None if bound_s == math.inf else bound_s
