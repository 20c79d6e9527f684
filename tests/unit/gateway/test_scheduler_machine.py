"""The invariants of the schedule under any sequence of calls, against a plain model of it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from gateway.pool.estimates import Estimates
from gateway.pool.job import Job
from gateway.pool.scheduler import Scheduler
from tests.unit.gateway.schedules import request

Place = tuple[int, int]
"""Worker and slot."""


class Model:
    """What the machine below knows: plain lists, written without the scheduler's ideas."""

    def __init__(self, n_slots: int, max_running: int) -> None:
        self.max_queue = 3
        self.n_slots = n_slots
        self.max_running = max_running
        self.waiting: list[Job] = []
        self.running: dict[Job, Place] = {}
        self.done: list[Job] = []
        self.lost: list[Job] = []
        self.caches: dict[Place, str] = {}  # of free slots
        self.used: dict[Place, int] = {}  # when a free slot became free
        self.blank: set[Place] = set()  # which were never used
        self.prompt_lengths: dict[Place, int] = {}
        self.now = 0

    @property
    def startable(self) -> int:
        return max(0, min(self.max_running - len(self.running), len(self.caches)))

    def load(self, worker_id: int) -> int:
        return sum(place[0] == worker_id for place in self.running.values())


class SchedulerMachine(RuleBasedStateMachine):
    """Calls the scheduler as the pool may, in any order."""

    workers = Bundle("workers")

    @initialize(n_slots=st.integers(1, 3), max_running=st.integers(1, 6))
    def begin(self, n_slots: int, max_running: int) -> None:
        self.model = Model(n_slots, max_running)
        self.scheduler = Scheduler(self.model.max_queue, max_running, Estimates())
        self.ids = map(str, range(10**6))

    @rule(prompt=st.text("ab", max_size=4))
    def submit(self, prompt: str) -> None:
        job, model = request(next(self.ids), prompt), self.model
        assert self.scheduler.startable == model.startable
        room = len(model.waiting) < model.max_queue + model.startable
        assert self.scheduler.submit(job) is room
        if room:
            model.waiting.append(job)

    @rule(target=workers)
    def add_worker(self) -> object:
        there = {place[0] for place in (*self.model.caches, *self.model.running.values())}
        worker_id = len(there)
        if worker_id in there:
            return multiple()
        for index in range(self.model.n_slots):
            self.free((worker_id, index), "")
            self.model.prompt_lengths[worker_id, index] = 0
            self.model.blank.add((worker_id, index))
        self.scheduler.add_worker(worker_id, self.model.n_slots)
        return worker_id

    @rule(worker_id=consumes(workers))
    def worker_dies(self, worker_id: int) -> None:
        model = self.model
        lost = [job for job, place in model.running.items() if place[0] == worker_id]
        assert set(self.scheduler.remove_worker(worker_id)) == set(lost)
        for place in [place for place in model.caches if place[0] == worker_id]:
            del model.caches[place]
        for job in lost:
            del model.running[job]
            # A crash that says little about each of several.
            job.crashes += len(lost) > 1
        model.lost += lost

    @precondition(lambda self: self.model.lost)
    @rule(again=st.booleans())
    def rescue(self, again: bool) -> None:
        job = self.model.lost.pop()
        if again:
            job.begin_anew()
            self.scheduler.resubmit(job)
            self.model.waiting.insert(0, job)
        else:
            self.model.done.append(job)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        model = self.model
        jobs = [*model.waiting, *model.running, *model.done, request("none")]
        job = jobs[data.draw(st.integers(0, len(jobs) - 1))]
        is_waiting = job in model.waiting
        assert self.scheduler.withdraw(job) is is_waiting
        if is_waiting:
            model.waiting.remove(job)
            model.done.append(job)

    @rule()
    def start_next(self) -> None:
        model = self.model
        start = self.scheduler.next(0.0)
        if not model.waiting or model.startable == 0:
            assert start is None
            return
        if start is None:
            # Nothing here is long enough to be waited for, so somebody is to be alone.
            assert any(job.is_alone for job in (*model.waiting, *model.running))
            return
        job, slot = start
        place = (slot.worker_id, slot.index)
        assert place in model.caches, "the slot is free"
        if job.is_alone:
            assert model.load(slot.worker_id) == 0
        for other, taken in model.running.items():
            assert not (other.is_alone and taken[0] == slot.worker_id)
        if not any(each.is_alone for each in (*model.waiting, *model.running)):
            assert job is model.waiting[0]
            assert place == min(sorted(model.caches, key=model.used.__getitem__), key=self.cost)
        model.waiting.remove(job)
        del model.caches[place]
        model.blank.discard(place)
        model.running[job] = place

    def cost(self, place: Place) -> tuple[float, int]:
        """Of the head of the backlog in a free slot."""
        model = self.model
        prompt, cached = bytes(model.waiting[0].request.ids).decode(), model.caches[place]
        oldest_first = sorted(model.caches, key=model.used.__getitem__)

        def share(text: str) -> int:
            return max(n for n in range(len(text) + 1) if prompt.startswith(text[:n]))

        own = share(cached)
        copied = max(share(text) for at, text in model.caches.items() if at[0] == place[0])
        lost = len(cached) - own if own < model.prompt_lengths[place] else 0
        worth = 0.5 * (oldest_first.index(place) + 1) / len(oldest_first)
        if model.blank & set(oldest_first):
            worth = 1.0
        company = 64 * model.load(place[0])
        return len(prompt) - copied + worth * lost + company + (copied > own), lost

    @precondition(lambda self: self.model.running)
    @rule(text=st.text("ab", max_size=4), data=st.data())
    def finish(self, text: str, data: st.DataObject) -> None:
        jobs = list(self.model.running)
        job = jobs[data.draw(st.integers(0, len(jobs) - 1))]
        prompt = bytes(job.request.ids).decode()
        self.scheduler.finish(job, tuple(text.encode()))
        place = self.model.running.pop(job)
        self.model.prompt_lengths[place] = len(prompt)
        self.free(place, prompt + text)
        self.model.done.append(job)

    def free(self, place: Place, text: str) -> None:
        self.model.now += 1
        self.model.caches[place] = text
        self.model.used[place] = self.model.now

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        assert list(self.scheduler.waiting) == self.model.waiting
        places = {
            job: (job.slot.worker_id, job.slot.index)
            for job in self.scheduler.running.values()
            if job.slot is not None
        }
        assert places == self.model.running
        assert len(set(places.values())) == len(places)
        assert len(places) <= self.model.max_running

    def teardown(self) -> None:
        """All that waits gets its turn: who is to be alone starves nobody, and does not starve."""
        if not hasattr(self, "model"):
            return
        self.add_worker()
        for _ in range(100):
            while (start := self.scheduler.next(0.0)) is not None:
                assert start[0] in self.scheduler.running.values()
            if not self.scheduler.running:
                break
            self.scheduler.finish(next(iter(self.scheduler.running.values())), ())
        assert not self.scheduler.waiting


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
