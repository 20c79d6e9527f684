"""Schedulers for tests, and what becomes of them."""

from gateway.pool.estimates import Estimates
from gateway.pool.jobs import Start
from gateway.pool.scheduler import Scheduler
from shared.messages import Generate

SYSTEM = "You are a helpful assistant. " * 25
"""725 bytes, which are tokens here: by the estimates at the start 5.8 s of prefill."""


def request(request_id: str, prompt: str = "", max_tokens: int | None = None) -> Generate:
    return Generate(request_id, tuple(prompt.encode()), max_tokens=max_tokens)


def scheduler(workers: int, max_queue: int = 10, slots: int | None = None) -> Scheduler:
    made = Scheduler(max_queue, workers if slots is None else slots, Estimates())
    for worker_id in range(workers):
        made.add_worker(worker_id)
    return made


def started(made: Scheduler, now_s: float = 0.0) -> list[tuple[str, int]]:
    """Start all that can be started."""
    result = []
    while step := made.next(now_s):
        assert isinstance(step, Start)
        result.append((step.request.request_id, step.worker_id))
    return result


def waiting(made: Scheduler) -> list[str]:
    return [waiting.request.request_id for waiting in made.waiting]


def with_caches(*texts: str, slots: int | None = None) -> Scheduler:
    """Free workers 0, 1, ... whose caches hold these texts; the first was used the longest ago."""
    made = scheduler(len(texts))
    for number, text in enumerate(texts):
        made.submit(request(str(number), text))
    started(made)
    for number in range(len(texts)):
        made.finish(str(number), ())
    made.slots = len(texts) if slots is None else slots
    return made
