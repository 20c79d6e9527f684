"""Which job runs in which slot, and what waits: data only, no clock, no I/O."""

from collections import Counter, deque
from itertools import islice

from gateway.pool.choice import Choice, cheapest
from gateway.pool.estimates import Estimates
from gateway.pool.job import Job
from gateway.pool.prefix import EMPTY, Prefix, Slot
from gateway.pool.prefix_cache import LEAST_TOKENS, PrefixCache
from shared.saved_prefix import Region

# How far behind the head of the queue to look for a job that can start: the first may wait on
# purpose.
_LOOKAHEAD = 16


class Scheduler:
    """A bounded FIFO backlog before the slots of all workers, of which some may run at once.

    A job goes to the free slot where it costs least, counted in tokens: those of its prompt that
    have to be evaluated there, and those in the slot's cache that are lost to others, which count
    the less the longer the slot has been idle, and next to nothing if they are saved. Not evaluated
    is what the slot, another one of its worker, or the prefix cache has. The job waits for a busy
    slot, or for one that evaluates the same prompt, if that is expected to be faster, but never
    longer than it can gain by it; meanwhile those behind it go ahead.
    """

    def __init__(
        self, max_queue: int, max_running: int, estimates: Estimates, prefix_cache: int = 0
    ) -> None:
        """Begin without slots; ``prefix_cache`` is in bytes."""
        #: the most jobs that may wait
        self.max_queue = max_queue
        #: the most that may run at the same time
        self.max_running = max_running
        self.estimates = estimates
        self.prefixes = PrefixCache(prefix_cache)
        #: the backlog, oldest first
        self.waiting: deque[Job] = deque()
        #: how long all in it are expected to take, one after the other
        self.waiting_ms = 0.0
        #: by request id
        self.running: dict[str, Job] = {}
        #: conversations that were lost from a cache since another took its place
        self.evictions = 0
        #: seconds until `next` may answer otherwise though nothing has happened
        self.patience_s: float | None = None
        self._slots: dict[int, list[Slot]] = {}
        # Least recently used first.
        self._free: dict[Slot, None] = {}
        # Jobs that have a worker, or are to have one, for themselves.
        self._reserved: dict[int, Job] = {}

    @property
    def startable(self) -> int:
        """How many jobs could start now."""
        return max(0, min(self.max_running - len(self.running), len(self._free)))

    def cached_tokens(self, worker_id: int) -> int:
        """Tokens in the caches of a worker."""
        return sum(len(slot.cached) for slot in self._slots.get(worker_id, ()))

    @property
    def busy_workers(self) -> set[int]:
        return {job.slot.worker_id for job in self.running.values() if job.slot is not None}

    def submit(self, job: Job) -> bool:
        """Put a job at the end of the backlog; False if that is full."""
        if len(self.waiting) >= self.max_queue + self.startable:
            return False
        self._expect(job)
        self.waiting.append(job)
        return True

    def resubmit(self, job: Job) -> None:
        """Put a job that lost its worker at the head of the backlog, whatever its bound."""
        self._expect(job)
        self.waiting.appendleft(job)

    def withdraw(self, job: Job) -> bool:
        """Drop a job from the backlog; False if it does not wait there."""
        if job not in self.waiting:
            return False
        self._remove(job)
        return True

    def add_worker(self, worker_id: int, n_slots: int = 1, born: Prefix = EMPTY) -> None:
        """A worker is ready; each of its slots can begin with ``born``."""
        slots = [Slot(worker_id, index, born, born, born) for index in range(n_slots)]
        self._slots[worker_id] = slots
        self._free.update(dict.fromkeys(slots))

    def remove_worker(self, worker_id: int) -> list[Job]:
        """A worker is gone; returns what it ran, which is not running any more."""
        for slot in self._slots.pop(worker_id, ()):
            self._free.pop(slot, None)
        self._reserved.pop(worker_id, None)
        running = self.running.values()
        lost = [job for job in running if job.slot and job.slot.worker_id == worker_id]
        for job in lost:
            del self.running[job.request.request_id]
        return lost

    def note_prefilled(self, job: Job) -> None:
        """The prompt of a job that runs has been evaluated."""
        self._release(job)
        if job.slot is not None and self.prefixes.most_rewound is None:
            job.slot.shareable = job.prompt

    def finish(
        self,
        job: Job,
        generated: tuple[int, ...] | None,
        state_bytes: int = 0,
        *,
        was_refused: bool = False,
    ) -> tuple[Slot, Region | None]:
        """A job has ended, and its slot is free.

        Args:
            job: one that runs.
            generated: stands behind the prompt in the cache; None if not even all of that does.
            state_bytes: size of the cache's state; 0 if it cannot be saved.
            was_refused: the prompt was not taken, so that the cache is what it was.

        Returns:
            The slot, and where its worker is to save the cache, if that is worth it.
        """
        slot = self.running.pop(job.request.request_id).slot
        assert slot is not None, "it was running"
        self._release(job)
        region = None
        if generated is not None:
            slot.cached = job.prompt.followed_by(generated)
            slot.saved, is_new = self.prefixes.keep(slot.cached, state_bytes, slot.worker_id)
            region = slot.saved.region if slot.saved is not None and is_new else None
        elif not was_refused and job.shared < len(slot.cached):
            slot.cached = Prefix(slot.cached.ids[: job.shared])
        slot.shareable = slot.cached
        if self._reserved.get(slot.worker_id) is job:
            del self._reserved[slot.worker_id]
        self._free[slot] = None
        return slot, region

    def next(self, now_s: float) -> tuple[Job, Slot] | None:
        """Start a job in a slot; to be called until there is none, by a clock that goes forward."""
        self.patience_s = None
        if self.startable == 0:
            return None
        for job in islice(self.waiting, _LOOKAHEAD):
            if (slot := self._start(job, now_s)) is not None:
                return job, slot
        return None

    def expected_wait_s(self, now_s: float) -> float:
        """Seconds that a job is expected to wait which is put at the end of the backlog."""
        if self.startable > len(self.waiting):
            return 0.0
        running_ms = sum(job.remaining_ms(now_s) for job in self.running.values())
        at_once = max(1, min(self.max_running, len(self.running) + len(self._free)))
        return (self.waiting_ms + running_ms) / at_once / 1000

    def _start(self, job: Job, now_s: float) -> Slot | None:
        slots = self._allowed(job)
        if not slots:
            return None
        entry, n_saved = self.prefixes.longest(job.prompt)
        if job.is_alone:  # who may kill workers reads nothing that another has written
            entry, n_saved = None, 0
        slot, own, shared = self._choose(job.prompt, slots, n_saved)
        if self._waits_for_busy(job, shared, now_s):
            return None
        self.evictions += not slot.is_continued(own)
        self._remove(job)
        del self._free[slot]
        slot.shareable = EMPTY
        if job.is_alone:
            self._reserved[slot.worker_id] = job
        job.slot, job.shared, job.saved = slot, shared, entry
        if entry is not None:
            self.prefixes.read(entry, slot.worker_id)
        job.expected_ms = self.estimates.generation_ms(
            len(job.prompt) - shared, job.request.max_tokens
        )
        job.begin(now_s)
        self.running[job.request.request_id] = job
        return slot

    def _allowed(self, job: Job) -> list[Slot]:
        """The free slots that a job may have."""
        if not job.is_alone:
            return [slot for slot in self._free if slot.worker_id not in self._reserved]
        kept = {worker_id for worker_id, other in self._reserved.items() if other is not job}
        loads = {
            worker_id: sum(slot not in self._free for slot in slots)
            for worker_id, slots in self._slots.items()
            if worker_id not in kept
        }
        allowed = [slot for slot in self._free if loads.get(slot.worker_id) == 0]
        if not allowed and loads and job not in self._reserved.values():
            # Nothing more starts there until it is idle: without that, it might never be.
            self._reserved[min(loads, key=lambda worker_id: loads[worker_id])] = job
        return allowed

    def _release(self, job: Job) -> None:
        if job.saved is not None and job.slot is not None:
            self.prefixes.release(job.saved, job.slot.worker_id)
            job.saved = None

    def _choose(self, prompt: Prefix, slots: list[Slot], n_saved: int) -> Choice:
        company = Counter(job.slot.worker_id for job in self.running.values() if job.slot)
        copied = {
            worker_id: max(
                self.prefixes.reusable(slot.shareable, prompt) for slot in self._slots[worker_id]
            )
            for worker_id in {slot.worker_id for slot in slots}
        }
        return cheapest(prompt, slots, copied, n_saved, company, self.prefixes)

    def _waits_for_busy(self, job: Job, shared: int, now_s: float) -> bool:
        """Whether a busy slot will be free, or have the prompt for others, soon enough."""
        most_ms = self.estimates.prefill_ms(len(job.prompt) - shared)
        for running in self.running.values():
            remaining_ms = self._until_useful_ms(running, job, now_s)
            if remaining_ms is None or remaining_ms >= most_ms or job.is_alone:
                continue
            gained = self.prefixes.reusable(running.prompt, job.prompt) - shared
            if gained < LEAST_TOKENS:
                continue
            if self._may_wait(job, self.estimates.prefill_ms(gained), remaining_ms, now_s):
                running.awaited_by = job
                return True
        return False

    def _until_useful_ms(self, running: Job, job: Job, now_s: float) -> float | None:
        """How much longer a job that runs keeps its cache to itself; None if that is too long."""
        assert running.slot is not None, "it runs"
        remaining_ms = running.remaining_ms(now_s)
        slots = self._slots[running.slot.worker_id]
        if len(slots) == 1:
            return remaining_ms if running.awaited_by in (None, job) else None
        if running.slot.shareable or not any(slot in self._free for slot in slots):
            return None
        return remaining_ms - self.estimates.generation_ms(0, running.request.max_tokens)

    def _may_wait(self, job: Job, gain_ms: float, remaining_ms: float, now_s: float) -> bool:
        """Whether to wait so long for a prefill that is shorter by ``gain_ms``.

        Nothing waits for longer than it can gain: whatever the estimates are worth, that at most
        doubles the time until the first token.
        """
        since_s = now_s if job.passed_since_s is None else job.passed_since_s
        left_ms = gain_ms - (now_s - since_s) * 1000
        if left_ms < remaining_ms:
            return False
        job.passed_since_s = since_s
        if self.patience_s is None or left_ms < self.patience_s * 1000:
            self.patience_s = left_ms / 1000
        return True

    def _expect(self, job: Job) -> None:
        n_new = len(job.prompt) * (1 - self.estimates.cached_share)
        job.expected_ms = self.estimates.generation_ms(n_new, job.request.max_tokens)
        self.waiting_ms += job.expected_ms

    def _remove(self, job: Job) -> None:
        self.waiting.remove(job)
        # Not the sum of what is rounded again and again.
        self.waiting_ms = self.waiting_ms - job.expected_ms if self.waiting else 0.0
        for running in self.running.values():
            if running.awaited_by is job:
                running.awaited_by = None
        for worker_id in [each for each, other in self._reserved.items() if other is job]:
            del self._reserved[worker_id]
