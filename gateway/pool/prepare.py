"""Questions about prompts, texts and tokens, and the processes that answer them.

A preparer gets one question at a time: if it dies, that one is to blame. A question that kills it
by the time that it takes is not asked again; whatever else was open is.
"""

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.pool.base import PoolRefused
from gateway.pool.deaths import Cause, Death
from gateway.pool.job import Job
from gateway.pool.keeper import Keeper
from gateway.pool.zygote import Zygote
from shared.errors import ErrorCode
from shared.messages import (
    Chat,
    Failed,
    Message,
    ModelInfo,
    Prepare,
    Prepared,
    Progress,
    Question,
)

# It has its own bound of CPU time, see `worker.preparer`; where many share the cores that is later.
_MOST_S = 60.0
# Processes that may die of a question, if not by their bounds.
_MOST_DEATHS = 2
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
class _Work:
    """What one preparer has been asked."""

    now: _Open | None = None
    #: by request id: those that it is done with, but for the trial of their grammar
    on_trial: dict[str, _Open] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    def free(self) -> _Open | None:
        """What it was at work on; it is not any more."""
        opened, self.now = self.now, None
        if self.timer is not None:
            self.timer.cancel()
        return opened


def _log_trial(answer: "asyncio.Future[Prepared | Failed | PoolRefused]") -> None:
    if not answer.cancelled() and isinstance(failed := answer.result(), Failed):
        logger.warning("a chat of one message has no prompt: %s", failed.message)


class Preparers:
    """Gives each question to a preparer that is free."""

    #: text is what no preparer sends
    running: Mapping[str, Job] = {}

    def __init__(
        self, zygote: Zygote, target: Callable[..., None], *, preparers: int, most: int
    ) -> None:
        """Prepare; nothing is started. At ``most`` so many questions may be open at once."""
        self._most = most
        self._n_open = 0
        self._waiting: deque[_Open] = deque()
        self._work = {
            Keeper(
                f"preparer-{number}", number, zygote, target, self, most_backoff_s=_MOST_BACKOFF_S
            ): _Work()
            for number in range(preparers)
        }

    @property
    def keepers(self) -> list[Keeper]:
        return list(self._work)

    def begin(self) -> None:
        """Have the chat template tried first; what is wrong with it is logged."""
        trial = _Open(_TRIAL, asyncio.get_running_loop().create_future())
        trial.answer.add_done_callback(_log_trial)
        self._waiting.append(trial)

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
        for work in self._work.values():
            self._waiting += [*work.on_trial.values(), *([work.now] if work.now else ())]
        while self._waiting:
            self._waiting.popleft().settle(PoolRefused(code, message, _UNAVAILABLE_RETRY_S))

    def _send(self) -> None:
        for keeper, work in self._work.items():
            process = keeper.process
            if process is None or keeper.state != "ready" or work.now is not None:
                continue
            while self._waiting and self._waiting[0].answer.done():
                self._waiting.popleft()  # nobody waits for it any more
            if not self._waiting:
                return
            work.now = self._waiting.popleft()
            process.send(work.now.question)
            too_slow = Death(Cause.STALLED, "did not answer")
            loop = asyncio.get_running_loop()
            work.timer = loop.call_later(_MOST_S, process.kill, too_slow)

    # ---- what the keepers tell (`gateway.pool.keeper.Listener`)

    def on_ready(self, keeper: Keeper, model: ModelInfo) -> None:
        self._send()

    def on_message(self, keeper: Keeper, message: Message) -> None:
        work = self._work[keeper]
        match message:
            case Progress(request_id):
                if (opened := work.free()) is not None:
                    work.on_trial[request_id] = opened
            case Prepared() | Failed():
                opened = work.on_trial.pop(message.request_id, None) or work.free()
                if opened is not None:
                    opened.settle(message)
            case _:
                raise ValueError(f"a preparer sent {type(message).__name__}")
        self._send()

    def on_gone(self, keeper: Keeper) -> None:
        pass

    def on_death(self, keeper: Keeper, death: Death) -> None:
        """Ask again what was open, but for the question that has killed it."""
        work = self._work[keeper]
        opened = work.free()
        if opened is not None and self._ends_with(opened, death):
            opened = None
        again = [*([opened] if opened else ()), *work.on_trial.values()]
        work.on_trial.clear()
        self._waiting.extendleft(reversed(again))
        self._send()

    def on_failed(self) -> None:
        if all(keeper.state == "failed" for keeper in self._work):
            reason = next((keeper.reason for keeper in self._work if keeper.reason), None)
            message = f"no preparer could be started: {reason}"
            self.end_all(ErrorCode.MODEL_UNAVAILABLE, message)

    def _ends_with(self, opened: _Open, death: Death) -> bool:
        """Whether a question ends with the process that was at work on it."""
        opened.deaths += 1
        question, request_id = opened.question, opened.question.request_id
        is_chat = isinstance(question, Prepare) and isinstance(question.prompt, Chat)
        took_too_long = death.status == -signal.SIGXCPU
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
