"""Tests of the schedule: some cases by hand, and its invariants under any sequence of calls."""

import pytest
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

from gateway.pool.scheduler import Scheduler
from shared.messages import Generate


def request(request_id: str, prompt: str = "") -> Generate:
    return Generate(request_id, (prompt,))


def scheduler(workers: int, max_queue: int = 10) -> Scheduler:
    made = Scheduler(max_queue)
    for worker_id in range(workers):
        made.add_worker(worker_id)
    return made


def started(made: Scheduler) -> list[tuple[str, int]]:
    """Start all that can be started."""
    result = []
    while pair := made.next():
        result.append((pair[0].request_id, pair[1]))
    return result


def waiting(made: Scheduler) -> list[str]:
    return [request.request_id for request in made.waiting]


def test_first_in_first_out() -> None:
    made = scheduler(1)
    for request_id in "abc":
        assert made.submit(request(request_id))
    assert started(made) == [("a", 0)]
    assert waiting(made) == ["b", "c"]
    made.finish("a", "")
    assert started(made) == [("b", 0)]
    made.finish("b", "")
    assert started(made) == [("c", 0)]
    assert (waiting(made), made.running) == ([], {"c": 0})


def test_nothing_starts_without_a_worker_or_without_a_request() -> None:
    made = scheduler(0)
    assert made.next() is None
    made.submit(request("a"))
    assert made.next() is None
    made.add_worker(7)
    assert started(made) == [("a", 7)]


def test_the_backlog_is_bounded() -> None:
    made = scheduler(0, max_queue=2)
    assert [made.submit(request(request_id)) for request_id in "abc"] == [True, True, False]
    assert waiting(made) == ["a", "b"]


def test_free_workers_count_as_places() -> None:
    made = scheduler(2, max_queue=1)
    assert [made.submit(request(request_id)) for request_id in "abcd"] == [True] * 3 + [False]
    assert started(made) == [("a", 0), ("b", 1)]
    assert not made.submit(request("e"))
    made.finish("a", "")
    assert made.submit(request("f"))
    assert not made.submit(request("g"))


def test_without_a_backlog_only_free_workers_take_requests() -> None:
    made = scheduler(1, max_queue=0)
    assert made.submit(request("a"))
    assert not made.submit(request("b"))
    assert started(made) == [("a", 0)]
    assert not made.submit(request("c"))
    made.finish("a", "")
    assert made.submit(request("d"))


def test_withdraw() -> None:
    made = scheduler(1)
    for request_id in "abc":
        made.submit(request(request_id))
    assert started(made) == [("a", 0)]
    assert not made.withdraw("a")
    assert made.withdraw("b")
    assert not made.withdraw("b")
    assert not made.withdraw("never seen")
    assert waiting(made) == ["c"]


def test_resubmit_goes_to_the_head_whatever_the_bound() -> None:
    made = scheduler(1, max_queue=1)
    first = request("a")
    made.submit(first)
    started(made)
    made.submit(request("b"))
    made.remove_worker(0)
    assert made.running == {}
    made.resubmit(first)
    assert waiting(made) == ["a", "b"]
    assert not made.submit(request("c"))
    made.add_worker(0)
    assert started(made) == [("a", 0)]


def with_caches(*texts: str) -> Scheduler:
    """Free workers 0, 1, ... whose caches hold these texts; the first was used the longest ago."""
    made = scheduler(len(texts))
    for number in range(len(texts)):
        made.submit(request(str(number)))
    started(made)
    for number, text in enumerate(texts):
        made.finish(str(number), text)
    return made


@pytest.mark.parametrize(
    ("prompt", "worker_id"),
    [("hello world", 1), ("hello", 0), ("help", 0), ("hella", 0), ("hero", 0), ("abc", 2), ("", 0)],
)
def test_the_longest_shared_prefix_wins(prompt: str, worker_id: int) -> None:
    made = with_caches("hello", "hello w", "ab")
    made.submit(request("next", prompt))
    assert started(made) == [("next", worker_id)]


def test_a_busy_worker_is_not_taken_for_its_cache() -> None:
    made = with_caches("hello", "")
    made.submit(request("a", "hello"))
    made.submit(request("b", "hello"))
    assert started(made) == [("a", 0), ("b", 1)]


def test_ties_go_to_the_least_recently_used() -> None:
    made = with_caches("same", "same", "same")
    made.submit(request("a", "same"))
    assert started(made) == [("a", 0)]
    made.finish("a", "same")
    made.submit(request("b", "same"))
    made.submit(request("c", "same"))
    made.submit(request("d", "same"))
    assert started(made) == [("b", 1), ("c", 2), ("d", 0)]


def test_a_new_worker_has_an_empty_cache() -> None:
    made = with_caches("", "hello")
    made.remove_worker(1)
    made.add_worker(1)
    made.submit(request("a", "hello"))
    assert started(made) == [("a", 0)]


def test_remove_worker() -> None:
    made = scheduler(3)
    made.submit(request("a"))
    made.submit(request("b"))
    started(made)
    made.remove_worker(0)
    assert made.running == {"b": 1}
    made.remove_worker(2)
    made.remove_worker(99)
    made.submit(request("c"))
    assert started(made) == []
    made.finish("b", "")
    assert started(made) == [("c", 1)]


class Model:
    """What the machine below knows: plain lists, written without the scheduler's ideas."""

    def __init__(self) -> None:
        self.max_queue = 3
        self.waiting: list[Generate] = []
        self.running: dict[str, int] = {}
        self.done: set[str] = set()
        self.lost: dict[str, Generate] = {}
        self.all: dict[str, Generate] = {}
        self.caches: dict[int, str] = {}  # of free workers
        self.used: dict[int, int] = {}  # when a free worker became free
        self.now = 0


class SchedulerMachine(RuleBasedStateMachine):
    """Calls the scheduler as the pool may, in any order."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.scheduler = Scheduler(self.model.max_queue)
        self.ids = map(str, range(10**6))

    @rule(prompt=st.text("ab", max_size=4))
    def submit(self, prompt: str) -> None:
        made = request(next(self.ids), prompt)
        model = self.model
        room = len(model.waiting) < model.max_queue + len(model.caches)
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
        pair = self.scheduler.next()
        if not model.waiting or not model.caches:
            assert pair is None
            return
        assert pair is not None
        made, worker_id = pair
        assert made is model.waiting.pop(0)

        prompt = "".join(made.prompt)

        def preference(free: int) -> tuple[int, int]:
            cached = model.caches[free]
            shared = max(n for n in range(len(cached) + 1) if prompt.startswith(cached[:n]))
            return -shared, model.used[free]

        assert worker_id == min(model.caches, key=preference)
        del model.caches[worker_id]
        model.running[made.request_id] = worker_id

    @precondition(lambda self: self.model.running)
    @rule(text=st.text("ab", max_size=4), data=st.data())
    def finish(self, text: str, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.model.running)))
        cached = "".join(self.model.all[request_id].prompt) + text
        self.scheduler.finish(request_id, cached)
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
        assert list(self.scheduler.waiting) == self.model.waiting
        assert self.scheduler.running == self.model.running

    @invariant()
    def a_worker_runs_one_request(self) -> None:
        workers = list(self.scheduler.running.values())
        assert len(set(workers)) == len(workers)
        assert not set(workers) & set(self.model.caches)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
