"""Work on request bodies: at once if it is little, else in a thread, so that streams go on."""

import asyncio
import contextvars
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.types import Receive

from gateway.errors import ApiError
from gateway.sse import until_disconnect
from shared.errors import ErrorCode

Result = TypeVar("Result")

_SMALL_BYTES = 32 << 10
_LEAST_SMALL_BYTES = 4 << 10
_LONG_S = 0.005
_RETRY_AFTER_S = 1
SWITCH_INTERVAL_S = 0.0002
"""How soon the event loop gets the interpreter back from the thread (`sys.setswitchinterval`).

It gives the interpreter up at every read; with the default of 5 ms each would take so long.
"""


class Offload:
    """One thread for all large bodies, one after another: two would halve the loop's share."""

    def __init__(self, most: int) -> None:
        """Begin without a thread; the first large body starts it.

        Args:
            most: how many large bodies may be there at once, the one at work among them.
        """
        self._most = most
        self._n_large = 0
        self._n_arriving = 0
        self._small_bytes = _SMALL_BYTES
        self._long_bytes: int | None = None
        self._thread = ThreadPoolExecutor(1, "large-bodies")

    async def run(self, receive: Receive, n_bytes: int, work: Callable[[], Result]) -> Result:
        """Do the work for a body of ``n_bytes`` bytes; whatever it raises is raised here.

        What has twice taken long at a size is not done on the event loop again at half that size
        or above, since how long depends on the model's chat template as well.

        Args:
            receive: of the request, whose body has been read.
            n_bytes: the size of the body.
            work: must not use anything that belongs to the event loop.

        Raises:
            ApiError: `QUEUE_FULL`, too many large bodies are there already.
            ClientDisconnect: the client of a large body went away; if the work on it had not begun,
                it is not done.
        """
        if n_bytes > self._small_bytes:
            return await self._run_large(receive, work)
        began_s = time.thread_time()
        try:
            return work()
        finally:
            self._learn(n_bytes, time.thread_time() - began_s > _LONG_S)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Keep memory for a large body while it is read; there are as many places as for the work.

        Raises:
            ApiError: `QUEUE_FULL`, too many large bodies are being read already.
        """
        if self._n_arriving >= self._most:
            raise self._full(self._n_arriving)
        self._n_arriving += 1
        try:
            yield
        finally:
            self._n_arriving -= 1

    def close(self) -> None:
        """Let the thread end after its work; `run` must not be called any more."""
        self._thread.shutdown(wait=False)

    async def _run_large(self, receive: Receive, work: Callable[[], Result]) -> Result:
        if self._n_large >= self._most:
            raise self._full(self._n_large)
        self._n_large += 1
        try:
            return await until_disconnect(receive, self._in_thread(work))
        finally:
            self._n_large -= 1

    def _full(self, n: int) -> ApiError:
        message = (
            f"{n} large requests are being read already, of at most {self._most}; try again later"
        )
        return ApiError(ErrorCode.QUEUE_FULL, message, retry_after=_RETRY_AFTER_S)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        # With the context of the request, whose id is in all that is logged.
        in_context = contextvars.copy_context().run
        return await loop.run_in_executor(self._thread, in_context, _uncollected, work)

    def _learn(self, n_bytes: int, was_long: bool) -> None:
        # Once may be an accident, such as a garbage collection that fell into a tiny body.
        if not was_long:
            if self._long_bytes is not None and n_bytes >= self._long_bytes:
                self._long_bytes = None
        elif self._long_bytes is None:
            self._long_bytes = n_bytes
        else:
            longer = max(n_bytes, self._long_bytes)
            self._small_bytes = max(longer // 2, _LEAST_SMALL_BYTES)
            self._long_bytes = None


def _uncollected(work: Callable[[], Result]) -> Result:
    # A collection does not give the interpreter up, and the many objects of a large body would
    # bring on several, each longer than the last.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    except Exception as error:
        # What the body was made into ends here, not on the event loop with the exception.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        if was_enabled:
            gc.enable()
