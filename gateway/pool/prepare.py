"""Questions about prompts, texts and tokens, and the processes that answer them.

A preparer gets one question at a time: if it dies, that one is to blame. A question that kills it
by the time that it takes is not asked again; whatever else was open is.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gateway.pool.base import PoolRefused
from gateway.pool.faults import Cause, Death
from gateway.pool.proc import activity
from gateway.pool.process import WorkerProcess
from gateway.pool.zygote import Zygote
from shared.errors import ErrorCode
from shared.messages import (
    Chat,
    Failed,
    LoadFailed,
    Message,
    Prepare,
    Prepared,
    Progress,
    Question,
    Ready,
    Shutdown,
)

PATIENCE_S = 10.0
"""Seconds without an answer after which a preparer is looked at: one that was stopped is killed."""
# It has its own bound of CPU time, see `worker.preparer`; where many share the cores that is later.
_MOST_S = 60.0
# Processes that may die of a question, if not by their bounds.
_MOST_DEATHS = 2
_YOUNG_S = 1.0
_MOST_BACKOFF_S = 5.0
_RETRY_AFTER_S = 1
_UNAVAILABLE_RETRY_S = 5

_TRIAL = Prepare("trial", Chat(({"role": "user", "content": "Hi"},)))

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Open:
    """A question that somebody waits for."""

    question: Question
    answer: "asyncio.Future[Prepared | Failed | PoolRefused]"
    deaths: int = 0

    def settle(self, answer: Prepared | Failed | PoolRefused) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


@dataclass(slots=True, eq=False)
class _Place:
    """One place for a preparer; processes come and go in it."""

    name: str
    process: WorkerProcess | None = None
    is_ready: bool = False
    at_work: _Open | None = None
    #: by request id: those that it is done with, but for the trial of their grammar
    on_trial: dict[str, _Open] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


def _log_trial(answer: "asyncio.Future[Prepared | Failed | PoolRefused]") -> None:
    if not answer.cancelled() and isinstance(failed := answer.result(), Failed):
        logger.warning("a chat of one message has no prompt: %s", failed.message)


class Preparers:
    """Keeps the preparers, and gives each question to one that is free."""

    def __init__(
        self, zygote: Zygote, target: Callable[..., None], *, preparers: int, most: int
    ) -> None:
        """Prepare; nothing is started.

        Args:
            zygote: what the processes are forked from.
            target: their body.
            preparers: how many there are.
            most: how many questions may be open at once.
        """
        self._zygote = zygote
        self._target = target
        self._most = most
        self._n_open = 0
        self._places = [_Place(f"preparer-{place}") for place in range(preparers)]
        self._waiting: deque[_Open] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    def begin(self) -> None:
        """Start the processes, and try the chat template: they log what is wrong with it."""
        loop = asyncio.get_running_loop()
        self._waiting.append(_Open(_TRIAL, loop.create_future()))
        self._waiting[-1].answer.add_done_callback(_log_trial)
        self._tasks = [asyncio.create_task(self._keep(place)) for place in self._places]

    async def prepare(self, question: Question) -> Prepared | Failed:
        """Have a question answered; see `gateway.pool.base.WorkerPool.prepare`."""
        if self._n_open >= self._most:
            message = f"{self._most} prompts are being prepared already; try again later"
            raise PoolRefused(ErrorCode.QUEUE_FULL, message, _RETRY_AFTER_S)
        opened = _Open(question, asyncio.get_running_loop().create_future())
        self._n_open += 1
        try:
            self._waiting.append(opened)
            self._send()
            answer = await opened.answer
        finally:
            self._n_open -= 1
        if isinstance(answer, PoolRefused):
            raise answer
        return answer

    def end_all(self, code: ErrorCode, message: str) -> None:
        """End all questions that are open."""
        for place in self._places:
            self._waiting += [*place.on_trial.values(), *([place.at_work] if place.at_work else ())]
        while self._waiting:
            self._waiting.popleft().settle(PoolRefused(code, message, _UNAVAILABLE_RETRY_S))

    def begin_close(self) -> None:
        """Have the processes end; `close` is to follow."""
        self._closing.set()
        for place in self._places:
            if place.process is not None:
                place.process.send(Shutdown())

    def kill(self) -> None:
        """End the processes at once."""
        for place in self._places:
            if place.process is not None:
                place.process.kill()

    async def close(self) -> None:
        """Wait for the end of the processes."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self) -> None:
        for place in self._places:
            if place.process is None or not place.is_ready or place.at_work is not None:
                continue
            while self._waiting and self._waiting[0].answer.done():
                self._waiting.popleft()  # nobody waits for it any more
            if not self._waiting:
                return
            place.at_work = self._waiting.popleft()
            place.process.send(place.at_work.question)
            self._watch(place, place.process)

    def _watch(self, place: _Place, process: WorkerProcess) -> None:
        """Look at a process as soon as it has taken a while."""
        loop = asyncio.get_running_loop()
        place.timer = loop.call_later(PATIENCE_S, self._look, place, process, time.monotonic())

    def _look(self, place: _Place, process: WorkerProcess, since_s: float) -> None:
        """Kill a process that was stopped, or takes too long however little of it it works."""
        if time.monotonic() - since_s > _MOST_S or activity(process.pid).state in ("T", "t"):
            process.kill(Death(Cause.STALLED, "did not answer"))
            return
        loop = asyncio.get_running_loop()
        place.timer = loop.call_later(PATIENCE_S, self._look, place, process, since_s)

    def _free(self, place: _Place) -> _Open | None:
        """What a place was at work on; it is not any more."""
        opened, place.at_work = place.at_work, None
        if place.timer is not None:
            place.timer.cancel()
        return opened

    def _on_message(self, place: _Place, message: Message) -> None:
        match message:
            case Ready():
                place.is_ready = True
                self._free(place)
            case Progress():
                if (opened := self._free(place)) is not None:
                    place.on_trial[message.request_id] = opened
            case Prepared() | Failed():
                opened = place.on_trial.pop(message.request_id, None) or self._free(place)
                if opened is not None:
                    opened.settle(message)
            case LoadFailed(reason):
                logger.error("%s has no model: %s", place.name, reason)
            case _:
                raise ValueError(f"a preparer sent {type(message).__name__}")
        self._send()

    async def _keep(self, place: _Place) -> None:
        """Keep a process in a place until the pool closes."""
        backoff_s = 0.0
        while not self._closing.is_set():
            began_s = time.monotonic()
            try:
                await self._run(place)
            except Exception as error:  # whatever it is, the next try is due
                if not self._closing.is_set():
                    logger.warning("%s could not be started: %s", place.name, error)
            is_young = time.monotonic() - began_s < _YOUNG_S
            backoff_s = min(_MOST_BACKOFF_S, 2 * backoff_s or 0.05) if is_young else 0.0
            if backoff_s > 0.05:  # the first death is answered at once
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), backoff_s)

    async def _run(self, place: _Place) -> None:
        """Start a process, and let it serve until it is dead."""
        process = await WorkerProcess.start(self._zygote, self._target, place.name)
        place.process = process
        process.attach(partial(self._on_message, place))
        if self._closing.is_set():
            process.kill()
        self._watch(place, process)
        await process.exited
        exitcode, death = await process.reap()
        opened, place.process, place.is_ready = self._free(place), None, False
        if self._closing.is_set():
            return
        logger.warning("%s (pid %d) %s", place.name, process.pid, death.why)
        if opened is not None and self._ends_with(opened, exitcode, death):
            opened = None
        again = [*([opened] if opened else ()), *place.on_trial.values()]
        place.on_trial.clear()
        self._waiting.extendleft(reversed(again))
        self._send()

    def _ends_with(self, opened: _Open, exitcode: int | None, death: Death) -> bool:
        """Whether a question ends with the process that was at work on it."""
        opened.deaths += 1
        question, request_id = opened.question, opened.question.request_id
        is_chat = isinstance(question, Prepare) and isinstance(question.prompt, Chat)
        took_too_long = exitcode == -signal.SIGXCPU
        if not took_too_long and opened.deaths < _MOST_DEATHS:
            return False
        if is_chat and (took_too_long or not death.is_external):
            how = "too much time" if took_too_long else "too much memory, or crashes"
            message = f"The chat template takes {how} with these messages."
            code = ErrorCode.TEMPLATE_TOO_EXPENSIVE.value
            opened.settle(Failed(request_id, code, message, "messages"))
        else:
            message = f"the process that was to prepare this prompt {death.why}"
            opened.settle(PoolRefused(ErrorCode.WORKER_CRASHED, message, 0))
        return True
