"""The jobs that the pool has taken: which worker runs each, and what becomes of it."""

import asyncio
import time
from dataclasses import replace

from gateway.pool.base import Terms, Totals
from gateway.pool.estimates import Estimates
from gateway.pool.faults import Death, Quarantine, end_after
from gateway.pool.job import Job
from gateway.pool.prefix import Prefix
from gateway.pool.process import WorkerProcess
from gateway.pool.scheduler import Scheduler, Slot
from shared.errors import ErrorCode
from shared.messages import Cancel, Failed, Finished, Generate, Prefilled, SetThreads

_TIME_IS_OVER = "the time that this request may take is over"


class Dispatcher:
    """Sends jobs to workers as the schedule says."""

    def __init__(self, *, max_queue: int, threads: int, max_running: int = 1) -> None:
        """Begin without workers.

        Args:
            max_queue: the most jobs that may wait.
            threads: for evaluation, shared out among the workers that run.
            max_running: the most jobs that may run, until the workers' slots are known.
        """
        self.estimates = Estimates()
        self.scheduler = Scheduler(max_queue, max_running, self.estimates)
        self.quarantine = Quarantine()
        #: set while no job waits or runs, those included that nobody waits for
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._totals = Totals()
        self._processes: dict[int, WorkerProcess] = {}
        self._jobs: dict[str, Job] = {}
        # Worker id -> what it ran when it began to die, until it is known why.
        self._dying: dict[int, list[Job]] = {}
        self._threads = self._share = threads
        self._threads_of: dict[int, int] = {}
        self._patience: asyncio.TimerHandle | None = None

    @property
    def totals(self) -> Totals:
        return replace(
            self._totals,
            evictions=self.scheduler.evictions,
            quarantined=self.quarantine.total,
        )

    @property
    def stall_s(self) -> float:
        """Seconds without progress after which a worker will never make any."""
        # What was learned may have been measured when one worker had all the threads.
        return self.estimates.stall_s * self._threads / self._share

    def take(self, request: Generate, terms: Terms) -> Job:
        """Take a job, which has been admitted; `abandon` it in the end."""
        job = Job(request, terms)
        has_room = self.scheduler.submit(job)
        assert has_room, "it was admitted"
        self._jobs[request.request_id] = job
        self.is_idle.clear()
        self._set_timer(job)
        self._dispatch()
        return job

    def abandon(self, job: Job) -> None:
        """The consumer is gone: cancel the job. Harmless after the terminal event."""
        if job.state == "ended" or job.is_abandoned:
            return
        self._leave(job)
        if self.scheduler.withdraw(job):
            self._forget(job)
            job.state = "ended"

    def add_worker(
        self, worker_id: int, process: WorkerProcess, n_slots: int, born: Prefix
    ) -> None:
        """Put a new worker into rotation; ``born`` is what its caches hold."""
        self._processes[worker_id] = process
        self._threads_of[worker_id] = self._threads  # at first it uses all
        self.scheduler.add_worker(worker_id, n_slots, born)
        self._dispatch()

    def remove_worker(self, worker_id: int) -> None:
        """Take a dying worker out of rotation; `rescue` is to follow."""
        self._processes.pop(worker_id, None)
        self._dying[worker_id] = lost = self.scheduler.remove_worker(worker_id)
        for job in lost:
            job.state = "dying"

    def rescue(self, worker_id: int, death: Death) -> None:
        """Save what a dead worker ran, if that can be done."""
        deaths, cause = self._totals.deaths, death.cause.value
        deaths = {**deaths, cause: deaths.get(cause, 0) + 1}
        self._totals = replace(self._totals, deaths=deaths)
        now_s, jobs = time.monotonic(), self._dying.pop(worker_id, [])
        again: list[Job] = []
        for job in jobs:
            if job.state == "ended":
                continue
            error = end_after(death, job, len(jobs) == 1, self.quarantine, now_s)
            if error is not None or job.is_abandoned:
                self.end(job, *(error or (ErrorCode.WORKER_CRASHED, "")))
            else:
                again.append(job)
        for job in reversed(again):  # each goes before the others
            job.begin_anew()
            self.scheduler.resubmit(job)
        self._dispatch()

    def on_event(self, job: Job, event: Prefilled | Finished | Failed) -> None:
        """A worker has sent an event of a job, but for its text."""
        if isinstance(event, Prefilled):
            if job.prefilled is None:  # else its second run
                self._note_prefilled(job, event)
            job.note_prefilled(event)
        elif job.state == "running":
            self._release(job, event)

    def end_waiting(self, code: ErrorCode, message: str) -> None:
        """End all that waits."""
        for job in list(self.scheduler.waiting):
            self.end(job, code, message)

    def end_all(self, code: ErrorCode, message: str) -> None:
        """End all that waits or runs, for its consumers; to be called when the pool closes."""
        if self._patience is not None:
            self._patience.cancel()
        for job in list(self._jobs.values()):
            self.end(job, code, message)

    def end(self, job: Job, code: ErrorCode, message: str) -> None:
        """End a job that no worker will end."""
        self.scheduler.withdraw(job)
        self._forget(job)
        job.fail(code, message)

    def _dispatch(self) -> None:
        """Start what can be started, and share the threads out among the workers that run."""
        now_s = time.monotonic()
        started: list[tuple[Job, Slot]] = []
        while (start := self.scheduler.next(now_s)) is not None:
            self._set_timer(start[0])
            started.append(start)
        if started:
            self._share_threads({slot.worker_id for _, slot in started})
        for job, slot in started:
            self._processes[slot.worker_id].run(job, slot.index)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if (patience_s := self.scheduler.patience_s) is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(patience_s, self._dispatch)

    def _share_threads(self, started: set[int]) -> None:
        """Give each worker that runs the same number of threads.

        Args:
            started: those that have just got something to run; unless the share is another than
                before, only they may not know it.
        """
        running = self.scheduler.busy_workers
        threads = max(1, self._threads // max(1, len(running)))
        if threads != self._share:
            self._share, started = threads, running
        for worker_id in started:
            if self._threads_of[worker_id] != threads:
                self._threads_of[worker_id] = threads
                self._processes[worker_id].send(SetThreads(threads))

    def _note_prefilled(self, job: Job, event: Prefilled) -> None:
        if job.request.echoes_from is None:  # else it was evaluated token by token
            self.estimates.learn_prefill(event)
        self._totals = replace(
            self._totals,
            prompt_tokens=self._totals.prompt_tokens + event.prompt_tokens,
            cached_tokens=self._totals.cached_tokens + event.cached_tokens,
        )

    def _release(self, job: Job, event: Finished | Failed) -> None:
        """A worker has ended a job, and its slot is free."""
        generated = None
        if isinstance(event, Finished):
            if event.finish_reason != "cancelled":
                if job.request.max_tokens != 0:  # else it could have had none
                    self.estimates.learn_completion(event)
                self.quarantine.note_success(job.request)
            n_generated = self._totals.completion_tokens + event.completion_tokens
            self._totals = replace(self._totals, completion_tokens=n_generated)
            if job.prefilled is not None:
                generated = event.ids
        was_refused = isinstance(event, Failed) and job.prefilled is None
        self.scheduler.finish(job, generated, was_refused=was_refused)
        self._forget(job)
        job.end(event)
        self._share_threads(set())
        self._dispatch()

    def _leave(self, job: Job) -> None:
        """Cancel what a worker runs; nobody is told what more comes of it.

        The slot is free only after its terminal event. There is none to tell if it is dying.
        """
        job.is_abandoned = True
        if job.timer is not None:
            job.timer.cancel()
        if job.state == "running" and job.slot is not None:
            self._processes[job.slot.worker_id].send(Cancel(job.request.request_id))

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.request.request_id, None)
        if not self._jobs:
            self.is_idle.set()

    def _set_timer(self, job: Job) -> None:
        """Have a job end when its time is over, to wait or in all; anew when it has started."""
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        terms, times = job.terms, []
        if terms.deadline_s is not None:
            times.append((terms.deadline_s, ErrorCode.REQUEST_TIMEOUT))
        if job.started_s is None and terms.queue_timeout_s is not None:
            times.append((job.submitted_s + terms.queue_timeout_s, ErrorCode.QUEUE_TIMEOUT))
        if times:
            at_s, code = min(times)
            delay_s = max(0.0, at_s - time.monotonic())
            loop = asyncio.get_running_loop()
            job.timer = loop.call_later(delay_s, self._expire, job, code)

    def _expire(self, job: Job, code: ErrorCode) -> None:
        if job.is_abandoned or job.state == "ended":
            return
        if code is ErrorCode.QUEUE_TIMEOUT:
            self.end(job, code, "no worker was free in time; try again later")
        elif job.state == "waiting":
            self.end(job, code, _TIME_IS_OVER)
        else:
            job.put(Failed(job.request.request_id, code.value, _TIME_IS_OVER, times=job.times()))
            self._leave(job)
