"""Which generation runs where, and what waits: data only, no clock, no I/O."""

from collections import deque
from itertools import islice

from gateway.pool.estimates import Estimates
from gateway.pool.jobs import Running, Start, Waiting, Worker
from gateway.pool.prefix import EMPTY, Prefix
from shared.messages import Generate

# So many that wait are looked at for one that should start now: the first may wait on purpose.
_LOOKAHEAD = 16
# What a token in a cache is worth that nobody asks for now, against one that is: as much while
# there is an unused worker; else so much where it was used last, and the less the longer ago.
_WORTH_OF_NEWEST = 0.5


class Scheduler:
    """A bounded FIFO backlog before a set of workers, of which some may run at the same time.

    A generation goes to the free worker where it costs least, counted in tokens: those of its
    prompt that have to be evaluated there, and those in the worker's cache that are lost to others,
    which count the less the longer the worker has not been used. It waits for another worker if
    that is expected to be faster, but never longer than it can gain by it; meanwhile those behind
    it go ahead.

    Attributes:
        max_queue: the most generations that may wait.
        slots: how many may run at the same time.
        estimates: how long things take.
        waiting: the backlog, oldest first.
        waiting_ms: how long all in it are expected to take, one after the other.
        running: request id -> worker id.
        can_rewind: whether a cache can be cut back to a part of what it holds; else it can only be
            continued from its end, or emptied.
        evictions: conversations that were lost from a cache since another took its place.
        patience_s: seconds until `next` may answer otherwise though nothing has happened.
    """

    def __init__(self, max_queue: int, slots: int, estimates: Estimates) -> None:
        """Begin with no workers and nothing waiting."""
        self.max_queue = max_queue
        self.slots = slots
        self.estimates = estimates
        self.can_rewind = True
        self.waiting: deque[Waiting] = deque()
        self.waiting_ms = 0.0
        self.running: dict[str, int] = {}
        self.evictions = 0
        self.patience_s: float | None = None
        self._running: dict[str, Running] = {}
        # Least recently used first.
        self._free: dict[int, Worker] = {}

    @property
    def startable(self) -> int:
        """How many generations could start now."""
        return max(0, min(self.slots - len(self.running), len(self._free)))

    def submit(self, request: Generate) -> bool:
        """Put a generation at the end of the backlog; False if that is full."""
        if len(self.waiting) >= self.max_queue + self.startable:
            return False
        self.waiting.append(self._waiting(request))
        return True

    def resubmit(self, request: Generate) -> None:
        """Put a generation that lost its worker at the head of the backlog, whatever its bound."""
        self.waiting.appendleft(self._waiting(request))

    def waits(self, request_id: str) -> bool:
        """Whether a generation is in the backlog."""
        return any(waiting.request.request_id == request_id for waiting in self.waiting)

    def withdraw(self, request_id: str) -> bool:
        """Drop a generation from the backlog; False if it does not wait there."""
        for waiting in self.waiting:
            if waiting.request.request_id == request_id:
                self._remove(waiting)
                return True
        return False

    def add_worker(self, worker_id: int, born: Prefix = EMPTY) -> None:
        """A worker is ready; its cache holds ``born``."""
        self._free[worker_id] = Worker(born, born)

    def remove_worker(self, worker_id: int) -> None:
        """A worker is gone; what it ran is not running any more."""
        self._free.pop(worker_id, None)
        for request_id, running_on in list(self.running.items()):
            if running_on == worker_id:
                del self.running[request_id], self._running[request_id]

    def finish(
        self, request_id: str, generated: tuple[int, ...] | None, *, was_refused: bool = False
    ) -> None:
        """A generation has ended, and its worker is free.

        Args:
            request_id: which.
            generated: what stands behind the prompt in the worker's cache; None if not even the
                whole prompt does.
            was_refused: the prompt was not taken, so that the cache is what it was.
        """
        del self.running[request_id]
        running = self._running.pop(request_id)
        worker = running.worker
        if generated is not None:
            worker.cached = running.prefix.followed_by(generated)
        elif not was_refused and running.shared < len(worker.cached):
            worker.cached = Prefix(worker.cached.ids[: running.shared])
        self._free[running.worker_id] = worker

    def next(self, now_s: float) -> Start | None:
        """Decide what is to be done next; to be called until there is nothing.

        Args:
            now_s: what the clock says; any that only goes forward.
        """
        self.patience_s = None
        if self.startable == 0:
            return None
        for waiting in islice(self.waiting, _LOOKAHEAD):
            step = self._step(waiting, now_s)
            if step is not None:
                return step
        return None

    def _step(self, waiting: Waiting, now_s: float) -> Start | None:
        request, prompt = waiting.request, waiting.prefix
        worker_id, shared = self._cheapest(prompt)
        worker = self._free[worker_id]
        evicts = not worker.is_continued(shared)
        if self._waits_for_busy(waiting, shared, now_s):
            return None
        self.evictions += evicts
        self._remove(waiting)
        del self._free[worker_id]
        expected_ms = self.estimates.generation_ms(len(prompt) - shared, request.max_tokens)
        self.running[request.request_id] = worker_id
        self._running[request.request_id] = Running(
            worker_id, worker, prompt, shared, now_s, expected_ms
        )
        return Start(request, prompt, worker_id)

    def _shared(self, cached: Prefix, prompt: Prefix) -> int:
        """How many tokens of a prompt would not have to be evaluated behind this cache."""
        shared = cached.shared_length(prompt)
        return shared if self.can_rewind or shared == len(cached) else 0

    def _cheapest(self, prompt: Prefix) -> tuple[int, int]:
        """The free worker that a prompt costs least, and how many tokens they share."""
        best: tuple[float, int, int, int] | None = None
        has_blank = any(worker.is_blank for worker in self._free.values())
        for age, (worker_id, worker) in enumerate(self._free.items()):
            shared = self._shared(worker.cached, prompt)
            # What a worker was born with is had again for the price of a fork, and who repeats a
            # prompt or goes on with it has no more use for what was behind it.
            lost = 0 if worker.is_continued(shared) else len(worker.cached) - shared
            worth = 1.0 if has_blank else _WORTH_OF_NEWEST * (age + 1) / len(self._free)
            key = (len(prompt) - shared + worth * lost, lost)
            if best is None or key < best[:2]:
                best = (*key, worker_id, shared)
        assert best is not None, "a worker is free"
        return best[2:]

    def _waits_for_busy(self, waiting: Waiting, shared: int, now_s: float) -> bool:
        """Whether a running worker will be free soon enough to be worth waiting for."""
        most_ms = self.estimates.prefill_ms(len(waiting.prefix) - shared)
        for running in self._running.values():
            remaining_ms = running.remaining_ms(now_s)
            if remaining_ms >= most_ms:
                continue
            if running.awaited_by not in (None, waiting.request.request_id):
                continue
            gained = self._shared(running.prefix, waiting.prefix) - shared
            gain_ms = self.estimates.prefill_ms(gained)
            if self._may_wait(waiting, gain_ms, remaining_ms, now_s):
                running.awaited_by = waiting.request.request_id
                return True
        return False

    def _may_wait(
        self, waiting: Waiting, gain_ms: float, remaining_ms: float, now_s: float
    ) -> bool:
        """Whether to wait so long for a prefill that is shorter by ``gain_ms``.

        Nothing waits for longer than it can gain: whatever the estimates are worth, that at most
        doubles the time until the first token.
        """
        since_s = now_s if waiting.passed_since_s is None else waiting.passed_since_s
        left_ms = gain_ms - (now_s - since_s) * 1000
        if left_ms <= remaining_ms:
            return False
        waiting.passed_since_s = since_s
        if self.patience_s is None or left_ms < self.patience_s * 1000:
            self.patience_s = left_ms / 1000
        return True

    def expected_wait_s(self, now_s: float) -> float:
        """Seconds that a generation is expected to wait which is put at the end of the backlog."""
        if self.startable > len(self.waiting):
            return 0.0
        running_ms = sum(running.remaining_ms(now_s) for running in self._running.values())
        at_once = max(1, min(self.slots, len(self._running) + len(self._free)))
        return (self.waiting_ms + running_ms) / at_once / 1000

    def _waiting(self, request: Generate) -> Waiting:
        prompt = Prefix(request.ids)
        n_new = len(prompt) * (1 - self.estimates.cached_share)
        waiting = Waiting(request, prompt, self.estimates.generation_ms(n_new, request.max_tokens))
        self.waiting_ms += waiting.expected_ms
        return waiting

    def _remove(self, waiting: Waiting) -> None:
        self.waiting.remove(waiting)
        # Not the sum of what is rounded again and again.
        self.waiting_ms = self.waiting_ms - waiting.expected_ms if self.waiting else 0.0
        self._release(waiting.request.request_id)

    def _release(self, request_id: str) -> None:
        """A generation does not wait for a worker any more."""
        for running in self._running.values():
            if running.awaited_by == request_id:
                running.awaited_by = None
