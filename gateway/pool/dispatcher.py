"""The jobs that the pool has taken: which worker runs each, and what becomes of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.pool.base import Terms, Totals, WorkerStatus
from gateway.pool.deaths import Death
from gateway.pool.estimates import Estimates
from gateway.pool.faults import Quarantine, end_after
from gateway.pool.job import Job
from gateway.pool.keeper import Keeper
from gateway.pool.prefix import Slot
from gateway.pool.process import WorkerProcess
from gateway.pool.scheduler import Scheduler
from gateway.pool.zygote import Zygote
from shared.errors import ErrorCode
from shared.messages import (
    Cancel,
    Failed,
    Finished,
    Generate,
    Message,
    ModelInfo,
    Prefilled,
    Progress,
    Save,
    Saved,
    SetThreads,
)


class Dispatcher:
    """Keeps the workers, and sends them jobs as the schedule says."""

    def __init__(
        self,
        zygote: Zygote,
        target: Callable[..., None],
        *,
        workers: int,
        parked: int,
        max_queue: int,
        threads: int,
        prefix_cache: int,
    ) -> None:
        """Prepare; nothing is started. ``threads`` are shared out among the workers that run."""
        self.estimates = Estimates()
        self.scheduler = Scheduler(max_queue, 1, self.estimates, prefix_cache)
        self.running: Mapping[str, Job] = self.scheduler.running
        self.quarantine = Quarantine()
        self.keepers = [
            Keeper(f"worker-{worker_id}", worker_id, zygote, target, self)
            for worker_id in range(workers + parked)
        ]
        #: once a worker has reported it
        self.model: ModelInfo | None = None
        #: set once a worker has been ready, or none can be
        self.is_settled = asyncio.Event()
        #: set while no job waits or runs, those included that nobody waits for
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._zygote = zygote
        self._workers = workers
        self._totals = Totals()
        self._deaths = Counter[str]()
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
            deaths=dict(self._deaths),
            evictions=self.scheduler.evictions,
            quarantined=self.quarantine.total,
        )

    @property
    def failure(self) -> str | None:
        """Why no worker can be expected any more; None if one can."""
        if any(keeper.state != "failed" for keeper in self.keepers):
            return None
        reason = next((keeper.reason for keeper in self.keepers if keeper.reason), None)
        return reason or "for an unknown reason"

    def workers(self) -> tuple[WorkerStatus, ...]:
        busy = Counter(job.slot.worker_id for job in self.running.values() if job.slot)
        return tuple(
            keeper.status(busy[keeper.number], self.scheduler.cached_tokens(keeper.number))
            for keeper in self.keepers
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
            self._processes[slot.worker_id].send(job.command())
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if (patience_s := self.scheduler.patience_s) is not None:
            self._patience = asyncio.get_running_loop().call_later(patience_s, self._dispatch)

    def _share_threads(self, started: set[int]) -> None:
        """Give each worker that runs the same number of threads.

        Unless the share is another than before, only those that have just started may not know it.
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
        self.scheduler.note_prefilled(job)
        if job.prefilled is not None:  # its second run
            return
        job.note_prefilled(event)
        if job.request.echoes_from is None:  # else it was evaluated token by token
            self.estimates.learn_prefill(event)
        self._totals.prompt_tokens += event.prompt_tokens
        self._totals.cached_tokens += event.cached_tokens
        self._totals.restored_tokens += event.restored_tokens

    def _release(self, job: Job, event: Finished | Failed) -> None:
        """A worker has ended a job, and its slot is free."""
        generated, state_bytes = None, 0
        if isinstance(event, Finished):
            if event.finish_reason != "cancelled":
                if job.request.max_tokens != 0:  # else it could have had none
                    self.estimates.learn_completion(event)
                self.quarantine.note_success(job.request)
            self._totals.completion_tokens += event.completion_tokens
            if job.prefilled is not None:
                generated, state_bytes = event.ids, event.state_bytes
        was_refused = isinstance(event, Failed) and job.prefilled is None
        slot, region = self.scheduler.finish(job, generated, state_bytes, was_refused=was_refused)
        if region is not None:
            self._processes[slot.worker_id].send(Save(slot.index, region))
        self._forget(job)
        job.end(event)
        self._share_threads(set())
        self._dispatch()

    def _leave(self, job: Job) -> None:
        """Cancel what a worker runs; its slot is free only after its terminal event."""
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
        if (due := job.due()) is not None:
            at_s, code, message = due
            delay_s = max(0.0, at_s - time.monotonic())
            loop = asyncio.get_running_loop()
            job.timer = loop.call_later(delay_s, self._expire, job, code, message)

    def _expire(self, job: Job, code: ErrorCode, message: str) -> None:
        if job.is_abandoned or job.state == "ended":
            return
        if job.state == "waiting":
            self.end(job, code, message)
        else:
            job.put(Failed(job.request.request_id, code.value, message, times=job.times()))
            self._leave(job)

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, keeper: Keeper, model: ModelInfo) -> None:
        """Put a new worker into rotation."""
        assert keeper.process is not None, "it has just spoken"
        worker_id, scheduler = keeper.number, self.scheduler
        self.model = model
        self._processes[worker_id] = keeper.process
        self._threads_of[worker_id] = self._threads  # at first it uses all
        scheduler.prefixes.most_rewound = model.most_rewound
        scheduler.max_running = self._workers * model.n_slots
        scheduler.add_worker(worker_id, model.n_slots, self._zygote.warm)
        self.is_settled.set()
        self._dispatch()

    def on_message(self, keeper: Keeper, message: Message) -> None:
        match message:
            case Progress():
                pass
            case Prefilled() | Finished() | Failed():
                job = self.running.get(message.request_id)
                if job is None or job.state != "running":  # it has ended here already
                    return
                if isinstance(message, Prefilled):
                    self._note_prefilled(job, message)
                    self._dispatch()  # who waits for this prompt can have it now
                else:
                    self._release(job, message)
            case Saved(region, is_whole):
                self.scheduler.prefixes.settle(region, is_whole=is_whole)
            case _:
                raise ValueError(f"a worker sent a command: {type(message).__name__}")

    def on_gone(self, keeper: Keeper) -> None:
        """Take a dying worker out of rotation."""
        self._processes.pop(keeper.number, None)
        self._dying[keeper.number] = lost = self.scheduler.remove_worker(keeper.number)
        for job in lost:
            job.state = "dying"

    def on_death(self, keeper: Keeper, death: Death) -> None:
        """Save what a dead worker ran, if that can be done."""
        self._deaths[death.cause.value] += 1
        self.scheduler.prefixes.forget(keeper.number)
        now_s, jobs = time.monotonic(), self._dying.pop(keeper.number, [])
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

    def on_failed(self) -> None:
        """End what waits if no worker can be expected any more."""
        if self.failure is not None:
            self.is_settled.set()
            message = f"no worker could be started: {self.failure}"
            for job in list(self.scheduler.waiting):
                self.end(job, ErrorCode.MODEL_UNAVAILABLE, message)
