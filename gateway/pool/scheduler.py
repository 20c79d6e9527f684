"""Which generation runs where and what waits: data only, no clock, no I/O."""

from collections import deque

from gateway.pool.prefix import shared_prefix_length
from shared.messages import Generate


class Scheduler:
    """A bounded FIFO backlog before a set of workers that run one generation each.

    Attributes:
        max_queue: the most generations that may wait.
        waiting: the backlog, oldest first.
        running: request id -> worker id.
    """

    def __init__(self, max_queue: int) -> None:
        """Begin with no workers and nothing waiting."""
        self.max_queue = max_queue
        self.waiting: deque[Generate] = deque()
        self.running: dict[str, int] = {}
        # Free worker -> the text that its KV cache holds; least recently used first.
        self._free: dict[int, str] = {}

    def submit(self, request: Generate) -> bool:
        """Put a generation at the end of the backlog.

        Returns:
            False if it was refused, since the backlog is full and no worker is free.
        """
        if len(self.waiting) >= self.max_queue + len(self._free):
            return False
        self.waiting.append(request)
        return True

    def resubmit(self, request: Generate) -> None:
        """Put a generation that lost its worker at the head of the backlog, whatever its bound."""
        self.waiting.appendleft(request)

    def withdraw(self, request_id: str) -> bool:
        """Drop a generation from the backlog; False if it does not wait there."""
        for request in self.waiting:
            if request.request_id == request_id:
                self.waiting.remove(request)
                return True
        return False

    def add_worker(self, worker_id: int) -> None:
        """A worker is ready, with an empty cache."""
        self._free[worker_id] = ""

    def remove_worker(self, worker_id: int) -> None:
        """A worker is gone; what it ran is not running any more."""
        self._free.pop(worker_id, None)
        for request_id, running_on in list(self.running.items()):
            if running_on == worker_id:
                del self.running[request_id]

    def finish(self, request_id: str, cached_text: str) -> None:
        """A generation has ended; its worker is free and its cache holds ``cached_text``."""
        self._free[self.running.pop(request_id)] = cached_text

    def next(self) -> tuple[Generate, int] | None:
        """Start the oldest waiting generation on the free worker that suits it best.

        That is the one whose cache shares the longest prefix with the prompt, among equals the
        least recently used.

        Returns:
            The generation and its worker's id; None if nothing waits or no worker is free.
        """
        if not self.waiting or not self._free:
            return None
        request = self.waiting.popleft()
        prompt = "".join(request.prompt)
        worker_id = max(self._free, key=lambda free: shared_prefix_length(self._free[free], prompt))
        del self._free[worker_id]
        self.running[request.request_id] = worker_id
        return request, worker_id
