"""The invariants of the schedule under any sequence of calls, against a plain model of it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from gateway.pool.estimates import Estimates
from gateway.pool.jobs import Start
from gateway.pool.scheduler import Scheduler
from shared.messages import Generate
from tests.unit.gateway.schedules import request, waiting


class Model:
    """What the machine below knows: plain lists, written without the scheduler's ideas."""

    def __init__(self) -> None:
        self.max_queue = 3
        self.slots = 3
        self.waiting: list[Generate] = []
        self.running: dict[str, int] = {}
        self.done: set[str] = set()
        self.lost: dict[str, Generate] = {}
        self.all: dict[str, Generate] = {}
        self.caches: dict[int, str] = {}  # of free workers
        self.used: dict[int, int] = {}  # when a free worker became free
        self.blank: set[int] = set()  # which were never used
        self.prompt_lengths: dict[int, int] = {}
        self.now = 0


class SchedulerMachine(RuleBasedStateMachine):
    """Calls the scheduler as the pool may, in any order."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.scheduler = Scheduler(self.model.max_queue, self.model.slots, Estimates())
        self.ids = map(str, range(10**6))

    @rule(prompt=st.text("ab", max_size=4))
    def submit(self, prompt: str) -> None:
        made = request(next(self.ids), prompt)
        model = self.model
        startable = min(model.slots - len(model.running), len(model.caches))
        assert self.scheduler.startable == startable
        room = len(model.waiting) < model.max_queue + startable
        assert self.scheduler.submit(made) is room
        if room:
            model.all[made.request_id] = made
            model.waiting.append(made)

    @rule(target=workers)
    def add_worker(self) -> object:
        worker_id = len(self.model.caches) + len(self.model.running)
        if worker_id in self.model.caches or worker_id in self.model.running.values():
            return multiple()
        self.free(worker_id, "")
        self.model.prompt_lengths[worker_id] = 0
        self.model.blank.add(worker_id)
        self.scheduler.add_worker(worker_id)
        return worker_id

    @rule(worker_id=consumes(workers))
    def worker_dies(self, worker_id: int) -> None:
        model = self.model
        self.scheduler.remove_worker(worker_id)
        model.caches.pop(worker_id, None)
        for request_id, running_on in list(model.running.items()):
            if running_on == worker_id:
                del model.running[request_id]
                model.lost[request_id] = model.all[request_id]

    @precondition(lambda self: self.model.lost)
    @rule(again=st.booleans(), data=st.data())
    def rescue(self, again: bool, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.model.lost)))
        lost = self.model.lost.pop(request_id)
        if again:
            self.scheduler.resubmit(lost)
            self.model.waiting.insert(0, lost)
        else:
            self.model.done.add(request_id)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        model = self.model
        request_id = data.draw(st.sampled_from([*sorted(model.all), "none"]))
        is_waiting = request_id in [waiting.request_id for waiting in model.waiting]
        assert self.scheduler.withdraw(request_id) is is_waiting
        if is_waiting:
            model.waiting = [w for w in model.waiting if w.request_id != request_id]
            model.done.add(request_id)

    @rule()
    def start_next(self) -> None:
        model = self.model
        step = self.scheduler.next(0.0)
        if not model.waiting or not model.caches or len(model.running) >= model.slots:
            assert step is None
            return
        assert isinstance(step, Start)  # nothing here is long enough to be waited for
        assert step.request is model.waiting.pop(0)
        prompt = bytes(step.request.ids).decode()
        oldest_first = sorted(model.caches, key=lambda free: model.used[free])

        def cost(free: int) -> tuple[float, int]:
            cached = model.caches[free]
            shared = max(n for n in range(len(cached) + 1) if prompt.startswith(cached[:n]))
            lost = len(cached) - shared if shared < model.prompt_lengths[free] else 0
            worth = 0.5 * (oldest_first.index(free) + 1) / len(oldest_first)
            if model.blank & set(oldest_first):
                worth = 1.0
            return len(prompt) - shared + worth * lost, lost

        assert step.worker_id == min(oldest_first, key=cost)
        del model.caches[step.worker_id]
        model.blank.discard(step.worker_id)
        model.running[step.request.request_id] = step.worker_id

    @precondition(lambda self: self.model.running)
    @rule(text=st.text("ab", max_size=4), data=st.data())
    def finish(self, text: str, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.model.running)))
        cached = bytes(self.model.all[request_id].ids).decode() + text
        self.scheduler.finish(request_id, tuple(text.encode()))
        worker_id = self.model.running[request_id]
        self.model.prompt_lengths[worker_id] = len(cached) - len(text)
        self.free(self.model.running.pop(request_id), cached)
        self.model.done.add(request_id)

    def free(self, worker_id: int, text: str) -> None:
        self.model.now += 1
        self.model.caches[worker_id] = text
        self.model.used[worker_id] = self.model.now

    @invariant()
    def each_request_is_in_one_place(self) -> None:
        model = self.model
        ids = waiting(self.scheduler)
        places = [*ids, *self.scheduler.running, *model.lost, *model.done]
        assert sorted(places) == sorted(model.all)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert [each.request for each in self.scheduler.waiting] == self.model.waiting
        assert self.scheduler.running == self.model.running

    @invariant()
    def a_worker_runs_one_request(self) -> None:
        workers = list(self.scheduler.running.values())
        assert len(set(workers)) == len(workers)
        assert not set(workers) & set(self.model.caches)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
