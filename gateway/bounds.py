"""How long a request may go on: to its deadline, and while its client is there."""

import asyncio
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway.errors import ApiError
from shared.errors import ErrorCode

Interrupt: TypeAlias = Callable[[Exception], None]
"""Ends a block wherever it waits; it raises the exception."""

_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """A block that can be ended from outside, with what cancellation ends in it."""
    task, reason = asyncio.current_task(), None
    assert task is not None, "requests are answered in tasks"

    def interrupt(error: Exception) -> None:
        nonlocal reason
        if reason is None:
            reason = error
            task.cancel()

    try:
        yield interrupt
    except asyncio.CancelledError:
        if reason is None:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise reason from None


@contextmanager
def while_connected(receive: Receive, interrupt: Interrupt) -> Iterator[None]:
    """Interrupt with `ClientDisconnect` when the client goes away.

    The request body must have been read: the next message is then the disconnect.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        interrupt(ClientDisconnect())

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """What the settings allow, and less if the headers of the request say so."""

    request_timeout_s: float | None = None  #: in all; None for no bound
    deadline_s: float | None = None  #: when that is over, by `time.monotonic`
    queue_timeout_s: float | None = None  #: that each of its generations may wait

    @contextmanager
    def applied(self, interrupt: Interrupt) -> Iterator[None]:
        """Interrupt the block with `REQUEST_TIMEOUT` at the deadline."""
        if self.deadline_s is None:
            yield
            return
        message = f"The request took longer than {self.request_timeout_s:g} seconds."
        timer = asyncio.get_running_loop().call_later(
            max(0.0, self.deadline_s - time.monotonic()),
            interrupt,
            ApiError(ErrorCode.REQUEST_TIMEOUT, message),
        )
        try:
            yield
        finally:
            timer.cancel()


def time_bounds(
    headers: Mapping[str, str], began_s: float, request_timeout_s: float, queue_timeout_s: float
) -> TimeBounds:
    """The bounds of a request that began at a time by `time.monotonic`; settings of 0 are none.

    Raises:
        ApiError: `INVALID_VALUE`, a header holds something else than seconds.
    """
    in_all_s = _lower(headers, "x-request-timeout", request_timeout_s)
    waiting_s = _lower(headers, "x-queue-timeout", queue_timeout_s)
    return TimeBounds(in_all_s, None if in_all_s is None else began_s + in_all_s, waiting_s)


def _lower(headers: Mapping[str, str], name: str, most_s: float) -> float | None:
    """The lower of a setting, where 0 is no bound, and a header; None for no bound."""
    bound_s = most_s or math.inf
    header = headers.get(name)
    if header is not None:
        seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
        if seconds <= 0.0:
            message = f"The header {name} must be a number of seconds above 0, such as 2.5."
            raise ApiError(ErrorCode.INVALID_VALUE, message, name)
        bound_s = min(bound_s, seconds)
    return None if bound_s == math.inf else bound_s
