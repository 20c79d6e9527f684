"""Schedulers for tests, and what becomes of them."""

from gateway.pool.base import DEFAULT_TERMS
from gateway.pool.estimates import Estimates
from gateway.pool.job import Job
from gateway.pool.scheduler import Scheduler
from shared.messages import Generate

SYSTEM = "You are a helpful assistant. " * 25
"""725 bytes, which are tokens here: by the estimates at the start 5.8 s of prefill."""


def request(request_id: str, prompt: str = "", max_tokens: int | None = None) -> Job:
    generate = Generate(request_id, tuple(prompt.encode()), max_tokens=max_tokens)
    return Job(generate, DEFAULT_TERMS)


def scheduler(workers: int, max_queue: int = 10, max_running: int | None = None) -> Scheduler:
    made = Scheduler(max_queue, workers if max_running is None else max_running, Estimates())
    for worker_id in range(workers):
        made.add_worker(worker_id)
    return made


def started(made: Scheduler, now_s: float = 0.0) -> list[tuple[str, int]]:
    """Start all that can be started."""
    result = []
    while (start := made.next(now_s)) is not None:
        job, slot = start
        assert job.slot is slot
        result.append((job.request.request_id, slot.worker_id))
    return result


def finish(made: Scheduler, request_id: str, generated: tuple[int, ...] | None) -> None:
    made.finish(made.running[request_id], generated)


def withdraw(made: Scheduler, request_id: str) -> bool:
    jobs = [job for job in made.waiting if job.request.request_id == request_id]
    return made.withdraw(jobs[0] if jobs else request(request_id))


def waiting(made: Scheduler) -> list[str]:
    return [job.request.request_id for job in made.waiting]


def running(made: Scheduler) -> dict[str, int]:
    """Request id -> worker id."""
    return {name: job.slot.worker_id for name, job in made.running.items() if job.slot}


def with_caches(*texts: str, max_running: int | None = None) -> Scheduler:
    """Free workers 0, 1, ... whose caches hold these texts; the first was used the longest ago."""
    made = scheduler(len(texts))
    for number, text in enumerate(texts):
        made.submit(request(str(number), text))
    started(made)
    for number in range(len(texts)):
        finish(made, str(number), ())
    made.max_running = len(texts) if max_running is None else max_running
    return made
