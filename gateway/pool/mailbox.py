"""Where the events of one generation wait for the one who consumes them."""

import asyncio

from shared.messages import Delta, Event, Failed, Finished


class Mailbox:
    """Events in the order they came; deltas that wait behind each other become one.

    So a consumer that is slower than its worker holds it up by nothing, and what waits for it is
    at most ``Prefilled``, one `Delta` and a terminal event: no more memory than the text itself.
    Both sides run on one event loop, and there is exactly one consumer.
    """

    __slots__ = ("_arrival", "_events", "_is_whole", "_loop")

    def __init__(self, is_whole: bool = False) -> None:
        """Begin empty; if ``is_whole``, nothing can be taken before the terminal event is there."""
        self._is_whole = is_whole
        # Never more than three: a list of them is smaller than a deque.
        self._events: list[Event] = []
        self._arrival: asyncio.Future[None] | None = None
        # Asked for once: before Python 3.12 asyncio makes a system call to answer.
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, event: Event) -> None:
        """Add an event of the generation; never blocks."""
        events = self._events
        if events and isinstance(event, Delta) and isinstance(last := events[-1], Delta):
            events[-1] = last.followed_by(event)
        else:
            events.append(event)
            if self._is_whole and isinstance(event, Finished | Failed):
                self._is_whole = False
        if self._is_whole:
            return
        arrival = self._arrival
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def clear(self) -> None:
        """Forget what was not taken: the generation begins anew."""
        self._events.clear()

    async def get(self) -> Event:
        """Take the next event; waits until there is one. Cancelling it loses none.

        Raises:
            RuntimeError: somebody else is waiting already.
        """
        events = self._events
        if self._is_whole or not events:
            if self._arrival is not None:
                raise RuntimeError("a mailbox has one consumer, and it is waiting already")
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return events.pop(0)
