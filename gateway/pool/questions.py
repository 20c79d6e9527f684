"""Questions about tokens, which workers answer beside whatever else they do."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.pool.base import PoolRefused, Question
from gateway.pool.keeper import WorkerKeeper
from shared.encoding import encode
from shared.errors import ErrorCode
from shared.messages import Tokens

PATIENCE_S = 10.0
"""Seconds until a question is sent to another worker, too; after as many again it fails."""
MOST_BYTES = 512 << 10
"""Of all questions, encoded, that a worker has not answered.

Its queue has room for a prompt besides: a put never blocks the event loop, even if the worker does
not read.
"""
_MOST_DEATHS = 1
_RETRY_AFTER_S = 1
_UNAVAILABLE_RETRY_S = 5


@dataclass(slots=True, eq=False)
class _Asked:
    """A question that somebody waits for.

    Attributes:
        question: the question.
        n_bytes: how long it is when it is encoded.
        answer: the answer, or why there is none.
        worker_id: the worker that it was sent to last; None if there was none with room for it.
        deaths: how many workers have died that had it.
        timer: calls when it has waited for too long.
        is_late: it has been called once.
    """

    question: Question
    n_bytes: int
    answer: asyncio.Future[Tokens | PoolRefused]
    worker_id: int | None = None
    deaths: int = 0
    timer: asyncio.TimerHandle | None = None
    is_late: bool = False

    def settle(self, answer: Tokens | PoolRefused) -> None:
        """The first answer is the one that counts."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Questions:
    """Sends each question to a worker that is idle, if there is one, else to one that runs.

    That one answers between two steps of its generation. Questions are few and their answers quick,
    so there is no backlog but of those that no worker has room for.
    """

    def __init__(
        self, keepers: Sequence[WorkerKeeper], running: Mapping[str, int], most: int
    ) -> None:
        """Begin with none.

        Args:
            keepers: of the workers, the parked ones among them.
            running: request id -> worker id of what runs; read at each question.
            most: how many questions may be open at once.
        """
        self._keepers = keepers
        self._running = running
        self._most = most
        self._asked: dict[str, _Asked] = {}
        # Worker id -> request id -> length, also of those that nobody waits for any more.
        self._unanswered: dict[int, dict[str, int]] = defaultdict(dict)

    async def ask(self, question: Question) -> Tokens:
        """Have a question answered; see `gateway.pool.base.WorkerPool.ask`."""
        n_bytes = len(encode(question))
        if n_bytes > MOST_BYTES:
            message = f"this is {n_bytes} bytes long; at most {MOST_BYTES} bytes are taken at once"
            raise PoolRefused(ErrorCode.BODY_TOO_LARGE, message, 0)
        if len(self._asked) >= self._most:
            message = f"{self._most} questions about tokens are open already; try again later"
            raise PoolRefused(ErrorCode.QUEUE_FULL, message, _RETRY_AFTER_S)
        asked = _Asked(question, n_bytes, asyncio.get_running_loop().create_future())
        self._asked[question.request_id] = asked
        try:
            self._set_timer(asked)
            self._send(asked)
            answer = await asked.answer
        finally:
            del self._asked[question.request_id]
            if asked.timer is not None:
                asked.timer.cancel()
        if isinstance(answer, PoolRefused):
            raise answer
        return answer

    def on_answer(self, worker_id: int, answer: Tokens) -> None:
        """A worker has answered; if nobody waits for that any more, it has at least room again."""
        self._unanswered[worker_id].pop(answer.request_id, None)
        if (asked := self._asked.get(answer.request_id)) is not None:
            asked.settle(answer)
        self.send_waiting()

    def on_gone(self, worker_id: int) -> None:
        """A worker is gone; another has to answer what it has not, unless two have died of it."""
        self._unanswered.pop(worker_id, None)
        for asked in list(self._asked.values()):
            if asked.worker_id != worker_id or asked.answer.done():
                continue
            asked.deaths += 1
            if asked.deaths > _MOST_DEATHS:
                message = f"{asked.deaths} worker processes have died that had this to answer"
                asked.settle(PoolRefused(ErrorCode.WORKER_CRASHED, message, 0))
            else:
                asked.worker_id = None
                self._send(asked)

    def send_waiting(self) -> None:
        """Send what no worker had room for, if one has now."""
        for asked in self._asked.values():
            if asked.worker_id is None and not asked.answer.done():
                self._send(asked)

    def end_all(self, code: ErrorCode, message: str) -> None:
        """End all that are open."""
        for asked in self._asked.values():
            asked.settle(PoolRefused(code, message, _UNAVAILABLE_RETRY_S))

    def _send(self, asked: _Asked) -> None:
        """Send a question to a worker that does not have it, if one has room."""
        busy = set(self._running.values())
        best: tuple[bool, int] | None = None
        chosen: WorkerKeeper | None = None
        for keeper in self._keepers:
            worker_id = keeper.worker_id
            if keeper.state != "ready" or worker_id == asked.worker_id:
                continue
            n_bytes = sum(self._unanswered[worker_id].values())
            key = (worker_id in busy, n_bytes)
            if n_bytes + asked.n_bytes <= MOST_BYTES and (best is None or key < best):
                best, chosen = key, keeper
        if chosen is not None and chosen.handle is not None:
            asked.worker_id = chosen.worker_id
            self._unanswered[chosen.worker_id][asked.question.request_id] = asked.n_bytes
            chosen.handle.send(asked.question)

    def _set_timer(self, asked: _Asked) -> None:
        loop = asyncio.get_running_loop()
        asked.timer = loop.call_later(PATIENCE_S, self._expire, asked)

    def _expire(self, asked: _Asked) -> None:
        if asked.is_late:
            message = "no worker has answered in time; try again later"
            asked.settle(PoolRefused(ErrorCode.QUEUE_TIMEOUT, message, _UNAVAILABLE_RETRY_S))
        else:
            asked.is_late = True
            self._set_timer(asked)
            self._send(asked)
